package report

import (
	"fmt"
	"html/template"
	"image/color"
	"strings"

	xfont "golang.org/x/image/font"
	"gonum.org/v1/plot/font"
	"gonum.org/v1/plot/text"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
)

// A chart is drawn once with the colours of the light theme; afterwards each of
// them is replaced by a CSS variable of the same name, so that one drawing serves
// both themes. The names are what the page's style sheet calls them.
type hue struct {
	name        string
	light, dark uint32
}

const (
	ink   = iota // text
	muted        // labels of ticks
	grid
	axis
	paper       // behind everything
	firstSeries // the first series' colour; the others follow
)

var hues = []hue{
	{"ink", 0x1c2430, 0xe8ecf1},
	{"muted", 0x5d6875, 0x9aa7b5},
	{"grid", 0xe4e8ee, 0x2b333e},
	{"axis", 0xb4bdc8, 0x4a5563},
	{"paper", 0xffffff, 0x161b22},
	// Told apart also by those who see no red or no green (after Okabe and Ito).
	{"s0", 0x0062b8, 0x58a6ff},
	{"s1", 0xd55e00, 0xf0883e},
	{"s2", 0xb8860a, 0xe3b341},
	{"s3", 0x00876a, 0x3fb68b},
	{"s4", 0xb2478f, 0xdb7bb8},
	{"s5", 0x7256c2, 0xa48af0},
	{"s6", 0x727d8a, 0x8b97a5},
	{"s7", 0x8f5b34, 0xc08a5f},
}

// seriesHues is how many colours there are before they repeat. Behind them in
// hues stand as many softer ones; they are colours of their own because the SVG
// writer rounds a translucent colour, and it would not be found again.
var seriesHues = len(hues) - firstSeries

func init() {
	for _, h := range hues[firstSeries:] {
		hues = append(hues, hue{h.name + "-soft", blend(h.light, hues[paper].light), blend(h.dark, hues[paper].dark)})
	}
	themed = newThemed()
}

// blend is two fifths of a and three of b, channel by channel.
func blend(a, b uint32) (mix uint32) {
	for shift := 0; shift < 24; shift += 8 {
		mix |= ((a>>shift&255)*2 + (b>>shift&255)*3) / 5 << shift
	}
	return mix
}

func paint(i int) color.NRGBA {
	v := hues[i].light
	return color.NRGBA{R: uint8(v >> 16), G: uint8(v >> 8), B: uint8(v), A: 255}
}

func seriesPaint(i int) color.NRGBA { return paint(firstSeries + i%seriesHues) }
func softPaint(i int) color.NRGBA   { return paint(firstSeries + seriesHues + i%seriesHues) }

// variables lists the theme as CSS, for instance `--ink:#1c2430;`.
func variables(dark bool) string {
	var b strings.Builder
	for _, h := range hues {
		v := h.light
		if dark {
			v = h.dark
		}
		fmt.Fprintf(&b, "--%s:#%06x;", h.name, v)
	}
	return b.String()
}

// themeCSS gives selector the light theme, or the dark one when the reader prefers that.
func themeCSS(selector string) template.CSS {
	return template.CSS(fmt.Sprintf("%s{color-scheme:light dark;%s}@media(prefers-color-scheme:dark){%s{%s}}",
		selector, variables(false), selector, variables(true)))
}

// themed replaces the colours and fonts of a drawing.
var themed *strings.Replacer

func newThemed() *strings.Replacer {
	var pairs []string
	for _, h := range hues {
		pairs = append(pairs, fmt.Sprintf("#%06X", h.light), "var(--"+h.name+")")
	}
	// The widths of letters were measured in Liberation Sans, which has those of Arial and
	// Helvetica.
	pairs = append(pairs, "font-family:Liberation Sans;", "font-family:Arial,Helvetica,'Liberation Sans',sans-serif;",
		"font-variant:normal;", "", "font-style:normal;", "", "font-weight:normal;", "")
	return strings.NewReplacer(pairs...)
}

// letters is a text style, in points, anchored at its left baseline.
func letters(size float64, bold bool, c color.Color, x text.XAlignment, y text.YAlignment) text.Style {
	f := font.Font{Typeface: "Liberation", Variant: "Sans", Size: vg.Points(size)}
	if bold {
		f.Weight = xfont.WeightBold
	}
	return text.Style{Color: c, Font: f, XAlign: x, YAlign: y, Handler: text.Plain{Fonts: font.DefaultCache}}
}

func stroke(c color.Color, width float64) draw.LineStyle {
	return draw.LineStyle{Color: c, Width: vg.Points(width)}
}

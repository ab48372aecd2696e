package report

import (
	"bytes"
	"fmt"
	"html/template"
	"math"
	"regexp"
	"strconv"
	"strings"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/text"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgsvg"
)

// Chart is what Lines and Bars have in common. Sizes are in CSS pixels at 100 %.
type Chart struct {
	Title    string
	Subtitle string // what is shown, in which unit and under which conditions
	Width    float64
	Height   float64
}

// canvas is a chart being drawn. One vg point is one pixel: the drawing scales
// with its viewBox.
type canvas struct {
	svg  *vgsvg.Canvas
	draw draw.Canvas
	name string
}

const margin = 14 // around everything

// subtitleShare is the part of the width that a subtitle may take: text is measured in Liberation
// Sans, and the fonts of some readers are a fifth wider.
const subtitleShare = 0.8

func (c Chart) begin() *canvas {
	svg := vgsvg.New(vg.Length(c.Width), vg.Length(c.Height))
	d := draw.New(svg)
	d.FillPolygon(paint(paper), []vg.Point{d.Min, {X: d.Max.X, Y: d.Min.Y}, d.Max, {X: d.Min.X, Y: d.Max.Y}})
	d = draw.Crop(d, margin, -margin, margin, -margin)
	d.FillText(letters(14, true, paint(ink), draw.XLeft, draw.YTop), vg.Point{X: d.Min.X, Y: d.Max.Y}, c.Title)
	d = draw.Crop(d, 0, 0, 0, -20)
	if c.Subtitle != "" {
		style := letters(11, false, paint(muted), draw.XLeft, draw.YTop)
		for _, line := range wrap(style, c.Subtitle, d.Size().X*subtitleShare) {
			d.FillText(style, vg.Point{X: d.Min.X, Y: d.Max.Y}, line)
			d = draw.Crop(d, 0, 0, 0, -15)
		}
		d = draw.Crop(d, 0, 0, 0, -5)
	}
	return &canvas{svg, d, c.Title}
}

// wrap breaks s between words so that each line is at most width long.
func wrap(style text.Style, s string, width vg.Length) (lines []string) {
	line := ""
	for _, word := range strings.Fields(s) {
		longer := strings.TrimSpace(line + " " + word)
		if line != "" && style.Width(longer) > width {
			lines = append(lines, line)
			longer = word
		}
		line = longer
	}
	return append(lines, line)
}

// legend writes one row (or more) of names with their colours.
func (c *canvas) legend(names []string, mark func(d draw.Canvas, i int, at vg.Point)) {
	style := letters(11, false, paint(ink), draw.XLeft, draw.YTop)
	x := c.draw.Min.X
	row := c.draw.Max.Y
	for i, name := range names {
		w := 18 + style.Width(name) + 16
		if x > c.draw.Min.X && x+w > c.draw.Max.X {
			x, row = c.draw.Min.X, row-16
		}
		mark(c.draw, i, vg.Point{X: x, Y: row - 6})
		c.draw.FillText(style, vg.Point{X: x + 18, Y: row}, name)
		x += w
	}
	c.draw = draw.Crop(c.draw, 0, 0, 0, row-c.draw.Max.Y-22)
}

var sized = regexp.MustCompile(`(?s)^.*?<svg width="[^"]*" height="[^"]*" viewBox="([^"]*)"[^>]*>`)

// end returns the drawing as an <svg> element that takes its colours from the page.
func (c *canvas) end() (template.HTML, error) {
	var b bytes.Buffer
	if _, err := c.svg.WriteTo(&b); err != nil {
		return "", fmt.Errorf("draw chart %q: %w", c.name, err)
	}
	m := sized.FindStringSubmatchIndex(b.String())
	if m == nil {
		return "", fmt.Errorf("draw chart %q: the SVG writer's output begins in an unknown way", c.name)
	}
	box, body := b.String()[m[2]:m[3]], b.String()[m[1]:]
	name := template.HTMLEscapeString(c.name)
	// The body's texts were escaped by the SVG writer.
	return template.HTML(`<svg class="chart" role="img" aria-label="` + name + `" viewBox="` + box +
		`" xmlns="http://www.w3.org/2000/svg"><title>` + name + `</title>` + themed.Replace(body)), nil
}

// Standalone puts charts side by side into one SVG file that brings its colours
// with it, for both themes.
func Standalone(charts ...template.HTML) string {
	const gap = 12
	var body strings.Builder
	width, height := 0.0, 0.0
	for _, c := range charts {
		head, rest, _ := strings.Cut(string(c), ">")
		var w, h float64
		if m := boxed.FindStringSubmatch(head); m != nil {
			w, _ = strconv.ParseFloat(m[1], 64)
			h, _ = strconv.ParseFloat(m[2], 64)
		}
		if width > 0 {
			width += gap
		}
		head = strings.Replace(head, `class="chart"`, fmt.Sprintf(`x="%g" width="%g" height="%g" overflow="visible"`, width, w, h), 1)
		body.WriteString(head + ">" + rest)
		width, height = width+w, math.Max(height, h)
	}
	return fmt.Sprintf(`<svg xmlns="http://www.w3.org/2000/svg" width="%g" height="%g" viewBox="0 0 %g %g"><style>%s</style>`,
		width, height, width, height, themeCSS(":root")) +
		`<rect width="100%" height="100%" fill="var(--paper)"/>` + body.String() + "</svg>\n"
}

var boxed = regexp.MustCompile(`viewBox="0 0 ([0-9.]+) ([0-9.]+)"`)

// dressed is a gonum plot in the house's style.
func dressed(xLabel, yLabel string) *plot.Plot {
	p := plot.New()
	p.BackgroundColor = nil
	for _, a := range []struct {
		*plot.Axis
		label string
		tick  text.Style
	}{
		{&p.X, xLabel, letters(11, false, paint(muted), draw.XCenter, draw.YTop)},
		{&p.Y, yLabel, letters(11, false, paint(muted), draw.XRight, draw.YCenter)},
	} {
		a.Label.Text = a.label
		a.Label.TextStyle = letters(11, false, paint(muted), draw.XCenter, draw.YBottom)
		a.Label.Padding = 6
		a.Tick.Label = a.tick
		a.Tick.Length = 4
		a.Tick.LineStyle = stroke(paint(axis), 0.8)
		a.LineStyle = stroke(paint(axis), 0.8)
		a.Padding = 0
	}
	p.Y.Label.TextStyle.YAlign = draw.YBottom
	return p
}

// Scale is how an axis places its values.
type Scale int

const (
	Linear      Scale = iota
	Log               // values must be positive; those that are not are left out
	Percentiles       // 0 to less than 100; each nine takes as much room as the one before
)

// place maps a value to where it stands; ok is false for values that the scale cannot show.
func (s Scale) place(v float64) (at float64, ok bool) {
	switch s {
	case Log:
		return math.Log10(v), v > 0
	case Percentiles:
		return -math.Log10(1 - v/100), v >= 0 && v < 100
	}
	return v, !math.IsNaN(v) && !math.IsInf(v, 0)
}

// ticks between lo and hi, which are places; format writes a value.
func (s Scale) ticks(lo, hi float64, format func(float64) string) (ticks []plot.Tick) {
	const hair = 1e-9
	add := func(v float64, label bool) {
		at, ok := s.place(v)
		if !ok || at < lo-hair || at > hi+hair {
			return
		}
		t := plot.Tick{Value: at}
		if label {
			t.Label = format(v)
		}
		ticks = append(ticks, t)
	}
	switch s {
	case Percentiles:
		for _, p := range []float64{0, 50, 75, 90, 95, 99, 99.5, 99.9, 99.95, 99.99, 99.995, 99.999} {
			add(p, p != 75 && p != 95 && p != 99.5 && p != 99.95 && p != 99.995)
		}
	case Log:
		for e := math.Floor(lo); e <= hi; e++ {
			for _, m := range []float64{1, 2, 5} {
				add(m*math.Pow(10, e), m == 1 || hi-lo < 2.5)
			}
		}
	default:
		for i, step := 0.0, niceStep(hi-lo); lo+i*step <= hi+hair*math.Abs(hi); i++ {
			add(math.Ceil(lo/step-hair)*step+i*step, true)
		}
	}
	return ticks
}

// niceStep divides span into three to ten steps of 1, 2 or 5 times a power of ten.
func niceStep(span float64) float64 {
	if !(span > 0) {
		return 1
	}
	step := math.Pow(10, math.Floor(math.Log10(span/3)))
	for _, m := range []float64{5, 2} {
		if span/(step*m) >= 3 {
			return step * m
		}
	}
	return step
}

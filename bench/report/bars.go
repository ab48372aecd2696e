package report

import (
	"fmt"
	"html/template"
	"image/color"
	"math"

	"sluice/bench/units"

	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
)

// Bars is a chart of horizontal bars, one row a name, with the values written
// at their ends; so it needs no axis. Its height follows from its rows.
type Bars struct {
	Chart
	Kinds  []string               // names of a row's values; the first is drawn in full colour
	Rows   []Bar                  // from top to bottom
	Format func(v float64) string // of the values; nil is units.Compact
}

// Bar is one row.
type Bar struct {
	Name   string
	Color  int
	Bold   bool // the one the chart is about
	Values []Value
}

// Value is a bar's length; Low and High, when they differ, its spread. A value
// that is not a number is written as "–".
type Value struct{ V, Low, High float64 }

const (
	barThick = 13
	barGap   = 2  // between the values of a row
	rowGap   = 10 // between rows
)

// SVG draws the chart. It fails when it has no rows.
func (b Bars) SVG() (template.HTML, error) {
	if len(b.Rows) == 0 {
		return "", fmt.Errorf("draw chart %q: it has no rows", b.Title)
	}
	if b.Format == nil {
		b.Format = units.Compact
	}
	most, perRow, widest := 0.0, 1, vg.Length(0)
	value := letters(11, false, paint(ink), draw.XLeft, draw.YCenter)
	for _, r := range b.Rows {
		perRow = max(perRow, len(r.Values))
		for _, v := range r.Values {
			if !math.IsNaN(v.V) {
				most = math.Max(most, math.Max(v.V, v.High))
				widest = max(widest, value.Width(b.Format(v.V)))
			}
		}
	}
	row := vg.Length(perRow*(barThick+barGap) + rowGap)
	b.Height = b.fixedHeight() + float64(row)*float64(len(b.Rows))
	c := b.begin()
	if len(b.Kinds) > 1 {
		c.legend(b.Kinds, func(d draw.Canvas, i int, at vg.Point) {
			fillRect(d, at.X, at.Y-5, 12, 10, kindPaint(0, i))
		})
	}
	names := vg.Length(0)
	for _, r := range b.Rows {
		names = max(names, nameStyle(r).Width(r.Name))
	}
	left := c.draw.Min.X + names + 10
	scale := (c.draw.Max.X - left - widest - 14) / vg.Length(math.Max(most, math.SmallestNonzeroFloat32))
	y := c.draw.Max.Y - rowGap/2
	for _, r := range b.Rows {
		b.row(c.draw, r, left, y, scale)
		y -= row
	}
	c.draw.StrokeLine2(stroke(paint(axis), 0.8), left, c.draw.Max.Y, left, y+rowGap/2)
	return c.end()
}

// fixedHeight is what is not rows.
func (b Bars) fixedHeight() float64 {
	h := 2*margin + 20.0
	if b.Subtitle != "" {
		style := letters(11, false, paint(muted), draw.XLeft, draw.YTop)
		h += 15*float64(len(wrap(style, b.Subtitle, (vg.Length(b.Width)-2*margin)*subtitleShare))) + 5
	}
	if len(b.Kinds) > 1 {
		h += 22
	}
	return h
}

func nameStyle(r Bar) draw.TextStyle {
	return letters(12, r.Bold, paint(ink), draw.XRight, draw.YCenter)
}

func kindPaint(series, kind int) color.Color {
	if kind == 0 {
		return seriesPaint(series)
	}
	return softPaint(series)
}

// row draws r with the top of its first bar at y.
func (b Bars) row(d draw.Canvas, r Bar, left, y, scale vg.Length) {
	tall := vg.Length(len(r.Values)*(barThick+barGap) - barGap)
	d.FillText(nameStyle(r), vg.Point{X: left - 8, Y: y - tall/2}, r.Name)
	for kind, v := range r.Values {
		mid := y - barThick/2
		style := letters(11, r.Bold, paint(ink), draw.XLeft, draw.YCenter)
		if math.IsNaN(v.V) {
			d.FillText(style, vg.Point{X: left + 6, Y: mid}, "–")
			y -= barThick + barGap
			continue
		}
		w := max(vg.Length(v.V)*scale, 1)
		fillRect(d, left, y-barThick, w, barThick, kindPaint(r.Color, kind))
		end := left + w
		if v.Low < v.High {
			lo, hi := left+vg.Length(v.Low)*scale, left+vg.Length(v.High)*scale
			thin := stroke(paint(ink), 1)
			d.StrokeLine2(thin, lo, mid, hi, mid)
			d.StrokeLine2(thin, lo, mid-3, lo, mid+3)
			d.StrokeLine2(thin, hi, mid-3, hi, mid+3)
			end = max(end, hi)
		}
		d.FillText(style, vg.Point{X: end + 6, Y: mid}, b.Format(v.V))
		y -= barThick + barGap
	}
}

func fillRect(d draw.Canvas, x, y, w, h vg.Length, c color.Color) {
	d.FillPolygon(c, []vg.Point{{X: x, Y: y}, {X: x + w, Y: y}, {X: x + w, Y: y + h}, {X: x, Y: y + h}})
}

package report

import (
	"fmt"
	"html/template"
	"math"
	"slices"

	"sluice/bench/units"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
)

// Lines is a chart of one or more curves.
type Lines struct {
	Chart
	X, Y   Axis
	Curves []Curve
}

// Axis of a chart. The zero value is linear, from the least to the greatest value.
type Axis struct {
	Label    string
	Scale    Scale
	FromZero bool                   // begin at 0, whatever the values
	Format   func(v float64) string // of the ticks; nil is units.Compact
}

// Curve is one line; points that its axes cannot show are left out.
type Curve struct {
	Name   string
	Color  int // which of the series' colours
	Points []XY
	Dots   bool // mark each point: for few and measured ones
	Dashed bool
}

// XY is one point. Low and High, when they differ, are drawn as a spread around Y.
type XY struct{ X, Y, Low, High float64 }

// SVG draws the chart. It fails when there is nothing to draw.
func (l Lines) SVG() (template.HTML, error) {
	c := l.begin()
	if len(l.Curves) > 1 || l.Curves != nil && l.Curves[0].Name != "" {
		names := make([]string, len(l.Curves))
		for i, curve := range l.Curves {
			names[i] = curve.Name
		}
		c.legend(names, func(d draw.Canvas, i int, at vg.Point) {
			d.StrokeLine2(l.Curves[i].stroke(), at.X, at.Y, at.X+13, at.Y)
		})
	}
	p := dressed(l.X.Label, l.Y.Label)
	curves := &curves{}
	xs, ys := span{}, span{}
	for _, curve := range l.Curves {
		placed := curve.placed(l.X.Scale, l.Y.Scale, &xs, &ys)
		curves.list = append(curves.list, placedCurve{curve, placed})
	}
	if xs.empty() {
		return "", fmt.Errorf("draw chart %q: no point can be shown", l.Title)
	}
	l.X.fit(&p.X, xs)
	l.Y.fit(&p.Y, ys)
	p.Add(rules{}, curves)
	p.Draw(draw.Crop(c.draw, 0, -10, 0, -4))
	return c.end()
}

// span is the range of what was placed.
type span struct {
	lo, hi float64
	any    bool
}

func (s *span) add(v float64) {
	if !s.any {
		*s = span{v, v, true}
	}
	s.lo, s.hi = math.Min(s.lo, v), math.Max(s.hi, v)
}

func (s span) empty() bool { return !s.any }

// fit gives the axis its range and ticks, with some air above the values.
func (a Axis) fit(to *plot.Axis, s span) {
	format := a.Format
	if format == nil {
		format = units.Compact
	}
	switch {
	case a.Scale == Log:
		s.lo, s.hi = s.lo-0.05, s.hi+0.1
	case a.Scale == Percentiles:
		s.lo = 0
	default:
		if a.FromZero {
			s.lo = math.Min(0, s.lo)
			s.hi += (s.hi - s.lo) * 0.05
		}
	}
	if s.hi-s.lo < 1e-9*math.Max(1, math.Abs(s.hi)) { // a single value: show it in the middle of something
		s.hi += math.Max(1, math.Abs(s.hi)*0.1)
	}
	to.Min, to.Max = s.lo, s.hi
	to.Tick.Marker = plot.TickerFunc(func(lo, hi float64) []plot.Tick { return a.Scale.ticks(lo, hi, format) })
}

func (c Curve) stroke() draw.LineStyle {
	s := stroke(seriesPaint(c.Color), 2)
	if c.Dashed {
		s.Dashes = []vg.Length{5, 4}
	}
	return s
}

type placedCurve struct {
	Curve
	at []XY
}

func (c Curve) placed(x, y Scale, xs, ys *span) (at []XY) {
	for _, p := range c.Points {
		px, okX := x.place(p.X)
		py, okY := y.place(p.Y)
		if !okX || !okY {
			continue
		}
		low, okLow := y.place(p.Low)
		high, okHigh := y.place(p.High)
		if p.Low >= p.High || !okLow || !okHigh {
			low, high = py, py
		}
		xs.add(px)
		ys.add(low)
		ys.add(high)
		at = append(at, XY{px, py, low, high})
	}
	slices.SortStableFunc(at, func(a, b XY) int {
		switch {
		case a.X < b.X:
			return -1
		case a.X > b.X:
			return 1
		}
		return 0
	})
	return at
}

// curves is the plotter of placed curves.
type curves struct{ list []placedCurve }

func (cs *curves) Plot(c draw.Canvas, p *plot.Plot) {
	trX, trY := p.Transforms(&c)
	// The last in the list lie below: the first is the one to see.
	for i := len(cs.list) - 1; i >= 0; i-- {
		curve := cs.list[i]
		var line []vg.Point
		for _, at := range curve.at {
			pt := vg.Point{X: trX(at.X), Y: trY(at.Y)}
			line = append(line, pt)
			if at.Low < at.High {
				thin := stroke(seriesPaint(curve.Color), 1)
				c.StrokeLine2(thin, pt.X, trY(at.Low), pt.X, trY(at.High))
				for _, end := range []float64{at.Low, at.High} {
					c.StrokeLine2(thin, pt.X-3, trY(end), pt.X+3, trY(end))
				}
			}
		}
		if len(line) > 1 {
			c.StrokeLines(curve.stroke(), line)
		}
		for _, pt := range line {
			if curve.Dots || len(line) == 1 {
				c.DrawGlyphNoClip(draw.GlyphStyle{Color: seriesPaint(curve.Color), Radius: 3, Shape: draw.CircleGlyph{}}, pt)
			}
		}
	}
}

// rules are the horizontal lines at the labelled ticks of the Y axis.
type rules struct{}

func (rules) Plot(c draw.Canvas, p *plot.Plot) {
	_, trY := p.Transforms(&c)
	for _, t := range p.Y.Tick.Marker.Ticks(p.Y.Min, p.Y.Max) {
		if t.Label != "" {
			c.StrokeLine2(stroke(paint(grid), 0.8), c.Min.X, trY(t.Value), c.Max.X, trY(t.Value))
		}
	}
}

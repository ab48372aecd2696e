package report

import (
	"cmp"
	_ "embed"
	"fmt"
	"html/template"
	"io"
	"maps"
	"slices"

	"sluice/bench/procfs"
	"sluice/bench/units"
)

// Page is one self-contained HTML page: no script, no network, both themes.
// Its texts may hold anything; they are escaped.
type Page struct {
	Title    string
	Verdict  *Verdict
	Tiles    []Tile
	Lead     []string // a paragraph each, below the tiles: the figures come first
	Sections []Section
	Foot     []string
}

// Verdict is the one sentence that most readers want.
type Verdict struct {
	Good    bool
	Text    string
	Reasons []string
}

// Tile is one large figure.
type Tile struct{ Label, Value, Note string }

// Section is a heading with what belongs to it.
type Section struct {
	Title  string
	Text   []string
	Notes  []string
	Charts []template.HTML // as the SVG methods of this package return them
	Tables []Table
}

// Table has its names in the first column and figures in the others.
type Table struct {
	Title string
	Head  []string
	Rows  []Row
}

// Row of a table; a strong one is set in bold.
type Row struct {
	Strong bool
	Cells  []string
}

//go:embed page.html
var pageSource string

var pageTemplate = template.Must(template.New("page").Parse(pageSource))

// Write writes the page. An error is the writer's.
func (p Page) Write(w io.Writer) error {
	if err := pageTemplate.Execute(w, struct {
		Page
		Theme template.CSS
	}{p, themeCSS(":root")}); err != nil {
		return fmt.Errorf("write the HTML report: %w", err)
	}
	return nil
}

// drawing is a chart of either kind.
type drawing interface{ SVG() (template.HTML, error) }

// DrawAll draws all charts, or says which one cannot be drawn.
func DrawAll(charts ...drawing) ([]template.HTML, error) {
	var all []template.HTML
	for _, c := range charts {
		svg, err := c.SVG()
		if err != nil {
			return nil, err
		}
		all = append(all, svg)
	}
	return all, nil
}

// MachineLine describes where a run was made, in one line.
func MachineLine(m procfs.Machine) string {
	return fmt.Sprintf("%d × %s, %s memory, Linux %s, %s",
		m.CPUs, m.CPU, units.Bytes(float64(m.MemoryB)), m.Kernel, m.GoVersion)
}

// pairs makes the rows of a two-column table from a map, the largest first.
func pairs(m map[string]int64) (rows []Row) {
	names := slices.Sorted(maps.Keys(m))
	slices.SortStableFunc(names, func(a, b string) int { return cmp.Compare(m[b], m[a]) })
	for _, name := range names {
		rows = append(rows, Row{Cells: []string{name, units.Number(m[name])}})
	}
	return rows
}

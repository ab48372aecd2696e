package admin

import (
	"bytes"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"fmt"
	"html/template"
	"io"
	"net/http"
	"regexp"
	"strings"
	"time"

	"sluice/gateway"
)

// The page is one file: style and script are in it, and allowed by their hashes.
//
//go:embed page.html
var pageText string

var pageTemplate = template.Must(template.New("page").Parse(pageText))

// pagePolicy allows the page's own style and script, events from this address, and nothing else.
var pagePolicy = func() string {
	var text bytes.Buffer
	if err := pageTemplate.Execute(&text, view{}); err != nil {
		panic(err) // the template is wrong; no input can do this
	}
	hash := func(element string) string {
		content := regexp.MustCompile(`(?s)<` + element + `>(.*?)</` + element + `>`).FindSubmatch(text.Bytes())
		sum := sha256.Sum256(content[1])
		return "'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'"
	}
	return "default-src 'none'; style-src " + hash("style") + "; script-src " + hash("script") +
		"; connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
}()

// view is what the page shows at one time.
type view struct {
	NotReady string // why; empty when it is ready
	Build    string
	Up       string
	At       string
	Sections []section
	Log      []string
}

// view makes one from two samples.
func (a *Admin) view(last, before sample) view {
	v := view{
		Build: gateway.ReadBuild().String(), Up: ago(last.at.Sub(a.began)),
		At: last.at.UTC().Format("15:04:05 UTC"), Sections: sections(last, before),
	}
	if err := a.ready(); err != nil {
		v.NotReady = err.Error()
	}
	if a.cfg.Lines != nil {
		v.Log = a.cfg.Lines.Last()
	}
	return v
}

// index is the page; as text for who does not ask for HTML.
func (a *Admin) index(w http.ResponseWriter, r *http.Request) {
	v := a.view(a.sampler.look(time.Now(), interval/2))
	h := w.Header()
	h.Set("Vary", "Accept")
	if !strings.Contains(r.Header.Get("Accept"), "text/html") {
		h.Set("Content-Type", "text/plain; charset=utf-8")
		v.writeText(w)
		return
	}
	var page bytes.Buffer
	if err := pageTemplate.Execute(&page, v); err != nil {
		http.Error(w, "the page cannot be made", http.StatusInternalServerError)
		a.cfg.Logger.Error("operators' page", "error", err)
		return
	}
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Security-Policy", pagePolicy)
	h.Set("Referrer-Policy", "no-referrer")
	w.Write(page.Bytes())
}

// writeText is the page for a terminal.
func (v view) writeText(w io.Writer) {
	state := "ready"
	if v.NotReady != "" {
		state = "not ready: " + v.NotReady
	}
	fmt.Fprintf(w, "sluice %s\n%s, up %s, as of %s\n", v.Build, state, v.Up, v.At)
	for _, s := range v.Sections {
		fmt.Fprintf(w, "\n%s\n", s.Title)
		if s.Head != nil {
			writeRow(w, append([]string{""}, s.Head...))
		}
		for _, row := range s.Rows {
			writeRow(w, row)
		}
	}
	if len(v.Log) > 0 {
		fmt.Fprintf(w, "\nLast warnings and errors\n  %s\n", strings.Join(v.Log, "\n  "))
	}
	io.WriteString(w, "\n/metrics /healthz /readyz /sessions/{id} /version /debug/pprof/\n")
}

func writeRow(w io.Writer, row []string) {
	fmt.Fprintf(w, "  %-28s", row[0])
	for _, cell := range row[1:] {
		fmt.Fprintf(w, " %14s", cell)
	}
	io.WriteString(w, "\n")
}

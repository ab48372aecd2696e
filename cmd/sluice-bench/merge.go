package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"

	"sluice/bench"
	"sluice/bench/report"
)

type mergeCmd struct {
	Files []string `arg:"" type:"existingfile" help:"Results that run --json wrote, one a machine."`
	output
}

func (c *mergeCmd) Run(s *streams) error {
	if err := c.check(); err != nil {
		return err
	}
	var results []*bench.Result
	for _, name := range c.Files {
		b, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		r := &bench.Result{}
		if err := json.Unmarshal(b, r); err != nil {
			return fmt.Errorf("read %s: %w", name, err)
		}
		if r.Started.IsZero() {
			return fmt.Errorf("read %s: it is not the result of a run", name)
		}
		results = append(results, r)
	}
	merged, err := bench.Merge(results)
	if err != nil {
		return err
	}
	return c.write(s, merged.OK(), pages{
		text: func(w io.Writer) error { return report.WriteText(w, merged) },
		json: func(w io.Writer) error { return report.WriteJSON(w, merged) },
		html: func(w io.Writer) error { return report.WriteHTML(w, merged) }})
}

package main

import (
	"errors"
	"fmt"
	"io"
	"os"
)

// output is where the result of a run goes.
type output struct {
	JSON string `name:"json" type:"path" placeholder:"FILE" help:"Write the result as JSON; -: to standard output, in place of the text."`
	HTML string `name:"html" type:"path" placeholder:"FILE" help:"Write the result as one HTML page with charts."`
}

// check fails when a file could not be written after the run.
func (o *output) check() error { return errors.Join(checkPath(o.JSON), checkPath(o.HTML)) }

// pages write a result.
type pages struct{ text, json, html func(io.Writer) error }

// write writes a result to all places. It returns errFailed when that is not ok.
func (o *output) write(s *streams, ok bool, p pages) error {
	var err error
	if o.JSON != "-" {
		err = p.text(s.out)
	}
	err = errors.Join(err, writeFile(s, o.JSON, p.json), writeFile(s, o.HTML, p.html))
	if err == nil && !ok {
		err = errFailed
	}
	return err
}

// writeFile writes to a file, or to standard output for "-"; to none when the name is empty.
func writeFile(s *streams, name string, write func(io.Writer) error) error {
	switch name {
	case "":
		return nil
	case "-":
		return write(s.out)
	}
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	if err := errors.Join(write(f), f.Close()); err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	return nil
}

package faults

import (
	"context"
	"fmt"
	"io"
	"os"
	"time"
)

// usualLoad is some 5,000 messages a second, on connections that live for a second.
var usualLoad = clientSpec{Sessions: 80, Slots: 1, Pause: 60 * time.Millisecond, Window: 64, Life: time.Second}

// row is what came of all runs of a fault.
type row struct {
	runs, failed                                  int
	messages, acknowledged, lost, doubled, broken uint64
	restarted, forgotten, renumbered              uint64
}

func (w *row) add(l *ledger) {
	w.messages += l.messages
	w.acknowledged += l.acknowledged
	w.lost += l.lost
	w.doubled += l.doubled
	w.broken += l.broken
	w.restarted += l.restarted
	w.forgotten += l.forgotten
	w.renumbered += l.renumbered
}

// runAll runs each fault of list runs times, and prints the table and what was wrong.
func runAll(ctx context.Context, out io.Writer, list []fault, runs int, p plan, keep bool) error {
	rows := make([]row, len(list))
	bad, done := 0, 0
	for i, f := range list {
		for range runs {
			if ctx.Err() != nil {
				break
			}
			began := time.Now()
			l, dir, err := runOnce(ctx, f, p)
			if ctx.Err() != nil {
				os.RemoveAll(dir)
				break
			}
			rows[i].runs++
			done++
			if l != nil {
				rows[i].add(l)
				for _, text := range l.findings {
					fmt.Fprintf(out, "%s: %s\n", f.name, text)
				}
			}
			if err != nil {
				rows[i].failed++
				fmt.Fprintf(out, "%s: %v\n", f.name, err)
			}
			if err != nil || !l.ok() {
				bad++
				fmt.Fprintf(out, "%s: the journal and the logs are in %s\n", f.name, dir)
			} else if keep {
				fmt.Fprintf(out, "%s: %s\n", f.name, dir)
			} else {
				os.RemoveAll(dir)
			}
			fmt.Fprintf(os.Stderr, "%s: %.1f s\n", f.name, time.Since(began).Seconds())
		}
	}
	printRows(out, list, rows)
	printForgotten(out, list, rows)
	switch {
	case bad > 0:
		return ErrBroken
	case ctx.Err() != nil:
		return ctx.Err()
	case done == 0:
		return fmt.Errorf("nothing was run (--runs %d)", runs)
	}
	return nil
}

// runOnce runs one fault. dir has the journal and the logs; the caller removes it.
func runOnce(ctx context.Context, f fault, p plan) (l *ledger, dir string, err error) {
	p.effect = f.effect
	if p.gateways = 2; f.load != nil {
		f.load(&p.load)
	}
	r, err := newFixture(ctx, p)
	if err != nil {
		return nil, "", err
	}
	defer r.close()
	if err := f.do(r); err != nil {
		return nil, r.dir, err
	}
	l, err = r.finish()
	return l, r.dir, err
}

func printRows(out io.Writer, list []fault, rows []row) {
	fmt.Fprintf(out, "| %-37s | runs | messages | acknowledged |  lost | doubled |\n", "fault")
	fmt.Fprintf(out, "|-%.37s-|-----:|---------:|-------------:|------:|--------:|\n", dashes)
	for i, f := range list {
		w := rows[i]
		fmt.Fprintf(out, "| %-37s | %4d | %8d | %12d | %5d | %7d |", f.name, w.runs, w.messages, w.acknowledged, w.lost, w.doubled)
		if w.broken > 0 || w.failed > 0 {
			fmt.Fprintf(out, " %d promises broken, %d runs failed", w.broken, w.failed)
		}
		fmt.Fprintln(out)
	}
}

// printForgotten says what a store that forgets takes with it whatever the gateways do.
func printForgotten(out io.Writer, list []fault, rows []row) {
	for i, f := range list {
		if w := rows[i]; w.restarted > 0 {
			fmt.Fprintf(out, "%s: %d times a session to which nobody was connected began again at 0, %d messages in all.\n", f.name, w.restarted, w.forgotten)
		}
		if w := rows[i]; w.renumbered > 0 {
			fmt.Fprintf(out, "%s: %d numbers were given out again in sessions of several connections; their totals are right.\n", f.name, w.renumbered)
		}
	}
}

const dashes = "----------------------------------------"

// named finds the faults to run.
func named(name string) ([]fault, error) {
	if name == "" {
		return faults, nil
	}
	known := ""
	for _, f := range faults {
		if f.name == name {
			return []fault{f}, nil
		}
		known += fmt.Sprintf("\n  %q", f.name)
	}
	return nil, fmt.Errorf("no fault %q; there are:%s", name, known)
}

package faults

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"time"
)

// usualLoad is some 5,000 messages a second, on connections that live for a second.
var usualLoad = clientSpec{Sessions: 80, Slots: 1, Pause: 60 * time.Millisecond, Window: 64, Life: time.Second}

// row is what came of all runs of a fault.
type row struct {
	runs, failed                   int
	messages, acknowledged         uint64
	lost, doubled, broken, missing uint64
	losses                         int
	forgotten, renumbered          uint64
}

func (w *row) add(l *ledger) {
	w.messages += l.messages
	w.acknowledged += l.acknowledged
	w.lost += l.lost
	w.doubled += l.doubled
	w.broken += l.broken
	w.missing += l.missing
	w.losses += l.losses
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
	p.effect, p.gateways = f.effect, cmp.Or(f.gateways, 2)
	p.topology, p.waits = f.topology, f.waits
	f.adapt(&p.load)
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

// printRows prints the table. The four columns of the promise are messages, numbers and promises
// that were not kept; forgotten is what Redis took with it and nobody was promised.
func printRows(out io.Writer, list []fault, rows []row) {
	fmt.Fprintln(out, "| fault | connections × gateways | runs | messages | acknowledged | A > R | R > S | order | R < S at rest | forgotten |")
	fmt.Fprintln(out, "|---|---|---:|---:|---:|---:|---:|---:|---:|---:|")
	for i, f := range list {
		w := rows[i]
		missing, forgotten := fmt.Sprint(w.missing), ""
		if w.losses > 0 {
			missing, forgotten = "–", fmt.Sprint(w.forgotten)
		}
		fmt.Fprintf(out, "| %s | %s | %d | %d | %d | %d | %d | %d | %s | %s |", f.name, f.shape(), w.runs, w.messages, w.acknowledged,
			w.lost, w.doubled, w.broken, missing, forgotten)
		if w.failed > 0 {
			fmt.Fprintf(out, " %d runs failed", w.failed)
		}
		fmt.Fprintln(out)
	}
}

// named finds the faults to run: all, or those of a name, with all their shapes.
func named(name string) ([]fault, error) {
	all := append(append([]fault(nil), faults...), lossFaults()...)
	if name == "" {
		return all, nil
	}
	var found []fault
	known := ""
	for _, f := range all {
		if f.name == name {
			found = append(found, f)
		} else if quoted := fmt.Sprintf("\n  %q", f.name); !strings.Contains(known, quoted) {
			known += quoted
		}
	}
	if found == nil {
		return nil, fmt.Errorf("no fault %q; there are:%s", name, known)
	}
	return found, nil
}

package main

import (
	"fmt"

	"sluice/gateway"
)

// maxLoops bounds --loops and what --max-conns may take.
const maxLoops = 1024

// capacity is how many connections fit into how many loops.
type capacity struct {
	loops, conns int
	perLoop      int
	own          bool // each loop has a descriptor table of its own
}

// fit finds the capacity that the settings ask for, with as many loops as there are cores or as the
// descriptors take. files may be open in one table, of which others beside the clients take
// reserved in that of the process. split says whether so many loops can have a table each. The
// error says what to change.
//
// Without --max-conns it is what one table holds, not what one for each loop would: loops with
// tables of their own keep their threads, and a message costs 1.1 to 1.5 times the CPU (README.md
// of bench). Who needs the room says so.
func fit(cfg *config, cores int, files, reserved uint64, split func(loops int) error) (capacity, error) {
	files = min(files, 1<<30) // unlimited must not overflow; no process holds a billion connections
	least, most := int(cfg.Loops), int(cfg.Loops)
	if cfg.Loops == 0 {
		least, most = cores, max(cores, maxLoops)
	}
	few := reserved + uint64(gateway.ReservedDescriptors(least))
	if files <= few {
		return capacity{}, fmt.Errorf("the limit of %d open files leaves none for connections: raise `ulimit -n` (LimitNOFILE= in a unit file) well above %d",
			files, few)
	}
	asked := int(cfg.MaxConns)
	one := largest(cfg, least, most, func(loops int) (all, each int) {
		all = gateway.MaxConnsFor(int(files-reserved), loops)
		return all, all
	})
	if asked <= one.conns {
		if asked > 0 {
			one.conns = asked
		}
		return one, nil
	}
	c := largest(cfg, least, most, func(loops int) (all, each int) {
		each = gateway.MaxConnsPerTable(int(files), loops)
		return loops * each, each
	})
	c.own = true
	why := ""
	if err := split(c.loops); err != nil {
		c = one
		why = fmt.Sprintf("; loops with descriptor tables of their own would hold more, but: %v", err)
	}
	if asked > c.conns {
		return capacity{}, fmt.Errorf("%d connections do not fit into the limit of %d open files with %d loops: lower --max-conns to at most %d, or raise `ulimit -n` (LimitNOFILE= in a unit file) or the settings of loops%s",
			asked, files, c.loops, c.conns, why)
	}
	c.conns = asked
	return c, nil
}

// largest is the smallest number of loops that hold --max-conns, or what most loops hold. room is
// what so many loops hold, together and each of them.
func largest(cfg *config, least, most int, room func(loops int) (all, each int)) (c capacity) {
	for loops := least; loops <= most; loops++ {
		all, each := room(loops)
		if n := int(cfg.MaxConnsPerLoop); n > 0 {
			each = min(each, n)
		}
		if all = min(all, loops*each); all > c.conns {
			c = capacity{loops: loops, conns: all, perLoop: each}
		}
		if all >= int(cfg.MaxConns) {
			break // with 0, at once: no more loops than cores
		}
	}
	return c
}

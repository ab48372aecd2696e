package topics

// held is a publication that waits for the end of a freeze.
type held struct {
	name string
	m    *message
}

// Freeze has what is published from now on wait, in its order, while subscribers move to another
// process: until Thaw delivers it here, or Export has given it away. It is for a process with which
// Give and Take are not possible. What waits counts for Config.MaxPending, beyond which publishers
// get ErrBusy. Only publications of this process wait: what a broker or a source brings is
// delivered as it comes. Any goroutine.
func (h *Hub) Freeze() {
	h.eachShard(func(s *shard) { s.frozen = h.broker == nil })
}

// Thaw ends Freeze, Give and Take. Any goroutine.
func (h *Hub) Thaw() {
	h.keep()
	h.allPassed()
	h.eachShard(func(s *shard) {
		s.frozen, s.gone = false, false
		for _, p := range append(s.imported, s.held...) {
			h.release(p.m.size())
			if _, err := h.deliverTo(s, p.name, p.m, nil, true); err != nil {
				_ = countPublished(err)
			}
		}
		s.imported, s.held = nil, nil
	})
}

// publish is deliver for what this process publishes.
func (h *Hub) publish(name string, m *message, from *Loop) (p Position, err error) {
	s := h.shard(name)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.relay != nil && h.broker == nil && s.relay.full() {
		s.frozen = true
	}
	if !s.frozen {
		return h.deliverTo(s, name, m, from, false)
	}
	if s.gone {
		return p, ErrBusy // another process has the topic, or is about to
	}
	if h.pending.Add(m.size()) > int64(h.cfg.MaxPending) {
		h.pending.Add(-m.size())
		return p, ErrBusy
	}
	pendingBytes.Add(m.size())
	s.held = append(s.held, held{name, m})
	return p, nil
}

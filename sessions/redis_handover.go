package sessions

import "encoding/binary"

// packed is what a process gives away of a session with one of its connections: all that it was
// told, and, when the connection is the only one there, its field.
type packed struct {
	id      ID
	subject subject
	fields  []field // its own among them
	// inherit is the name of its field, which from now on is the other process', and incarnations
	// is the last one that was given out for it; "" if the process goes on counting there itself.
	inherit      string
	incarnations uint64
}

func (p *packed) append(b []byte) []byte {
	b = append(append(append(b, packedVersion), p.id[:]...), p.subject[:]...)
	b = binary.AppendUvarint(appendText(b, p.inherit), p.incarnations)
	b = binary.AppendUvarint(b, uint64(len(p.fields)))
	for _, f := range p.fields {
		b = appendText(b, f.name)
		for _, n := range [...]uint64{f.incarnation, f.base, f.delta, f.after} {
			b = binary.AppendUvarint(b, n)
		}
	}
	return b
}

func parsePacked(state []byte) (p packed, err error) {
	u := unpack(state)
	p.id, p.subject = u.array(), u.array()
	p.inherit, p.incarnations = u.text(), u.number()
	for n := u.number(); n > 0 && !u.fail; n-- {
		f := field{name: u.text()}
		for _, to := range [...]*uint64{&f.incarnation, &f.base, &f.delta, &f.after} {
			*to = u.number()
		}
		u.fail = u.fail || f.worth() > maxTotal
		p.fields = append(p.fields, f)
	}
	return p, u.end()
}

// pack says what the process knows of the session, of which nothing is unconfirmed. retired says
// that it writes to no other session under this name any more, so that it can give the field away
// with the last connection. Under the committer's mutex.
func (w *writer) pack(retired bool) packed {
	p := packed{id: w.id, subject: w.subject}
	if w.others != nil {
		p.fields = append(p.fields, w.others.list...)
	}
	if w.acked.worth() > 0 {
		p.fields = append(p.fields, field{w.instance.name, w.acked})
	}
	if retired && w.attached == 1 && len(w.runs) == 0 {
		p.inherit, p.incarnations = w.instance.name, w.instance.incarnations.Load()
	}
	return p
}

// snapshot is p as a resume would find it.
func (p *packed) snapshot() snapshot { return snapshot{subject: p.subject, fields: p.fields} }

// CanMove says that this process has nothing unconfirmed in the session: what is on its way to
// Redis cannot travel, and a resume may have read it, so that its clients were told of it.
func (a *redisAttachment) CanMove(bool) bool {
	if a.pending > 0 || a.detached {
		return false
	}
	c := a.w.committer
	c.mu.Lock()
	defer c.mu.Unlock()
	return a.w.unconfirmed() == 0
}

func (a *redisAttachment) Pack(b []byte) []byte {
	c := a.w.committer
	c.mu.Lock()
	p := a.w.pack(a.w.instance != c.store.instance.Load())
	c.mu.Unlock()
	return p.append(b)
}

func (a *redisAttachment) Moved() {
	a.detached = true
	attachedOrKept.Add(-1)
	c := a.w.committer
	c.mu.Lock()
	a.w.attached--
	c.release(a.w)
	c.mu.Unlock()
}

// Unpack takes the session up as another incarnation: of the other process' field if that was given
// away, else of this process' own.
func (l *redisLoop) Unpack(state []byte, o Owner) (Attachment, error) {
	p, err := parsePacked(state)
	if err != nil {
		return nil, err
	}
	s, c := l.store, l.store.committer(p.id)
	in := s.instance.Load()
	if p.inherit != "" {
		in = s.inherit(p.inherit, p.incarnations)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil, ErrUnavailable
	}
	w := c.writers[writerKey{p.id, in}]
	if w == nil {
		w = c.newWriter(p.id, in, p.subject)
	}
	w.attached++
	w.found(p.snapshot())
	attachedOrKept.Add(1)
	return &redisAttachment{loop: l, w: w, owner: o}, nil
}

// inherit returns an instance of an earlier process. Any goroutine.
func (s *Redis) inherit(name string, incarnations uint64) *instance {
	s.inheritedMu.Lock()
	defer s.inheritedMu.Unlock()
	in := s.inherited[name]
	if in == nil {
		in = &instance{name: name}
		if s.inherited == nil {
			s.inherited = map[string]*instance{}
		}
		s.inherited[name] = in
	}
	for {
		n := in.incarnations.Load()
		if n >= incarnations || in.incarnations.CompareAndSwap(n, incarnations) {
			return in
		}
	}
}

// Handover lets new writers of a process that gives its connections away write under another name.
func (s *Redis) Handover(r Role) {
	if r == Giving {
		s.retired.Store(s.instance.Swap(newInstance()))
	}
}

// Export yields the name under which the process wrote before it began to give, unless it still
// has a writer of that name. The other process writes under it from then on, so that a deploy adds
// no field to sessions that are resumed after it.
func (s *Redis) Export(yield func(chunk []byte) bool) {
	in := s.retired.Swap(nil)
	if in == nil {
		return
	}
	for _, c := range s.committers {
		if c.has(in) {
			return
		}
	}
	yield(binary.AppendUvarint(appendText([]byte{packedVersion}, in.name), in.incarnations.Load()))
}

// has reports whether there is a writer of an instance.
func (c *committer) has(in *instance) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for key := range c.writers {
		if key.instance == in {
			return true
		}
	}
	return false
}

// Answer refuses: a Redis asks nobody but Redis.
func (s *Redis) Answer([]byte, func([]byte) error) error { return errPacked }

// Import takes what Export gave.
func (s *Redis) Import(chunk []byte) error {
	u := unpack(chunk)
	name, incarnations := u.text(), u.number()
	if err := u.end(); err != nil {
		return err
	}
	s.instance.Store(s.inherit(name, incarnations))
	return nil
}

package aggregator

// waiters are the calls that wait for one task to change.
type waiters struct {
	calls   int
	changed chan struct{} // closed at the next change
}

// wait joins the calls that wait for a task that exists. Take next before
// reading the state: it returns a channel that is closed at the change that
// follows. Nothing is kept of the task once every call has left.
func (s *Service) wait(name string) (next func() <-chan struct{}, leave func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	w := s.waiting[name]
	if w == nil {
		w = &waiters{changed: make(chan struct{})}
		s.waiting[name] = w
	}
	w.calls++
	next = func() <-chan struct{} {
		s.mu.Lock()
		defer s.mu.Unlock()
		return w.changed
	}
	leave = func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if w.calls--; w.calls == 0 {
			delete(s.waiting, name)
		}
	}
	return next, leave
}

// signal tells whoever waits for a task that something changed, and wakes its
// engine.
func (s *Service) signal(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if w := s.waiting[name]; w != nil {
		close(w.changed)
		w.changed = make(chan struct{})
	}
	if c := s.engines[name]; c != nil {
		select {
		case c <- struct{}{}:
		default:
		}
	}
}

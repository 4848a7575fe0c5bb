package arrowio

import "sync"

// lobbySize is how many streams may be waited for that have not said whose
// upload they carry.
const lobbySize = 32

// lobby holds the streams whose first message is not there. One too many ends
// the oldest, which an honest one has left long ago.
type lobby struct {
	mu   sync.Mutex
	size int
	in   []*seat // in the order in which they came
}

func newLobby(size int) *lobby { return &lobby{size: size} }

// enter returns what to call when the first message is there.
func (l *lobby) enter(s *seat) (came func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.in = append(l.in, s); len(l.in) > l.size {
		l.in[0].end()
		l.in = l.in[1:]
	}
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		for i, x := range l.in {
			if x == s {
				l.in = append(l.in[:i], l.in[i+1:]...)
				return
			}
		}
	}
}

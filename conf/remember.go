package conf

import "sync"

// Bounds of what is remembered: entries, and bytes of what each is made of.
const (
	mostRemembered    = 64
	longestRemembered = 16 << 10
)

// remembered keeps what was made of texts. What it returns is shared: nobody changes it.
type remembered[V any] struct {
	mu    sync.Mutex
	known map[string]V
}

func (r *remembered[V]) of(text string, read func() (V, error)) (V, error) {
	r.mu.Lock()
	v, ok := r.known[text]
	r.mu.Unlock()
	if ok {
		return v, nil
	}
	v, err := read()
	if err != nil || len(text) > longestRemembered {
		return v, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.known == nil || len(r.known) >= mostRemembered {
		r.known = map[string]V{}
	}
	r.known[text] = v
	return v, nil
}

// Remembered is a parse that keeps what it has read: configurations are few, and an
// ADD needs each several times. What it returns is shared: nobody changes it.
func Remembered[C any](parse func(network string, data []byte) (C, []string, error)) func(network string, data []byte) (C, []string, error) {
	type answer struct {
		c        C
		warnings []string
	}
	var known remembered[answer]
	return func(network string, data []byte) (C, []string, error) {
		a, err := known.of(network+"\x00"+string(data), func() (a answer, err error) {
			a.c, a.warnings, err = parse(network, data)
			return a, err
		})
		return a.c, a.warnings, err
	}
}

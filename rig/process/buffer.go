package process

import (
	"io"
	"sync"
)

// Buffer keeps what is written to it and may be read and written by several goroutines.
type Buffer struct {
	// Most is how much is kept, the last that was written, in bytes; all if zero.
	Most int
	// To takes all that is written as well; may be nil. One that fails is no error.
	To io.Writer

	mu   sync.Mutex
	text []byte
}

func (b *Buffer) Write(text []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.text = append(b.text, text...)
	if b.Most > 0 && len(b.text) > b.Most {
		b.text = append([]byte(nil), b.text[len(b.text)-b.Most:]...)
	}
	if b.To != nil {
		_, _ = b.To.Write(text)
	}
	return len(text), nil
}

// String is what is kept.
func (b *Buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return string(b.text)
}

package delegates

import "sync"

// Comparison is what attachments have in common that are compared with their datapaths
// together. A backend keeps in it what it has read of an endpoint, and reads the endpoint once
// for all of them.
type Comparison struct {
	mu     sync.Mutex
	shared map[string]any // by key
}

// Shared is the value of a key, which the first caller makes. A key belongs to one backend.
func Shared[T any](c *Comparison, key string, first func() *T) *T {
	c.mu.Lock()
	defer c.mu.Unlock()
	if value, ok := c.shared[key].(*T); ok {
		return value
	}
	if c.shared == nil {
		c.shared = map[string]any{}
	}
	value := first()
	c.shared[key] = value
	return value
}

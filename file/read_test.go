package file

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// Only a regular file within the limit is read. A FIFO without a writer does not block.
func TestReadRegular(t *testing.T) {
	dir := t.TempDir()
	fifo, text := filepath.Join(dir, "fifo"), filepath.Join(dir, "text")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(text, []byte("four"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		path  string
		limit int64
		says  string
	}{
		{text, 4, ""}, {text, 3, "more than 3 bytes"}, {fifo, 4, "no regular file"}, {dir, 4, "no regular file"},
		{"/dev/zero", 4, "no regular file"}, {filepath.Join(dir, "none"), 4, "no such file"},
		{"/proc/self/status", 4, "more than 4 bytes"}, // its size is 0 for stat, as that of a file that grows is too small
	} {
		data, err := ReadRegular(c.path, c.limit)
		switch {
		case c.says == "" && (err != nil || string(data) != "four"):
			t.Errorf("%s: %q, %v", c.path, data, err)
		case c.says != "" && (err == nil || !strings.Contains(err.Error(), c.says) || !strings.Contains(err.Error(), c.path)):
			t.Errorf("%s: %v, want %q", c.path, err, c.says)
		}
	}
}

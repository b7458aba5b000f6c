package journal

import (
	"os"
	"path/filepath"
	"time"
)

// keepUndone is how long it is noted that a sandbox is undone. A runtime repeats DEL within minutes.
const keepUndone = time.Hour

func (j *Journal) undoneFile(sandbox string) string { return filepath.Join(j.dir, "undone", sandbox) }

// IsUndone reports whether the record of a sandbox was removed a short time ago, as all of it is
// undone: it is not lost. A note that is missing costs the next DEL some executions, and nothing
// else.
func (j *Journal) IsUndone(sandbox string) bool {
	_, err := os.Stat(j.undoneFile(sandbox))
	return err == nil
}

// noteUndone makes the note, and removes old ones. Nothing depends on its success.
func (j *Journal) noteUndone(sandbox string) {
	file := j.undoneFile(sandbox)
	_ = os.MkdirAll(filepath.Dir(file), 0o700)
	_ = os.WriteFile(file, nil, 0o600)
	all, _ := os.ReadDir(filepath.Dir(file))
	for _, f := range all {
		if info, err := f.Info(); err == nil && time.Since(info.ModTime()) > keepUndone {
			_ = os.Remove(filepath.Join(filepath.Dir(file), f.Name()))
		}
	}
}

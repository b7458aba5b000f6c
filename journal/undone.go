package journal

import (
	"context"
	"os"
	"path/filepath"
	"strconv"
	"time"
)

// keepUndone is how long it is noted at least that a sandbox is undone. A runtime repeats DEL
// within minutes.
const keepUndone = time.Hour

// undoneFiles are the places of the note about a sandbox at a time: the first is that of a new
// one. Each hour has a folder, so that old notes go together.
func (j *Journal) undoneFiles(sandbox string, now time.Time) [2]string {
	in := func(t time.Time) string {
		return filepath.Join(j.dir, "undone", strconv.FormatInt(t.Unix()/int64(keepUndone/time.Second), 10), sandbox)
	}
	return [2]string{in(now), in(now.Add(-keepUndone))}
}

// IsUndone reports whether Finish has removed the record of a sandbox a short time ago: it is
// not lost. A note that is missing costs the next DEL some executions, and nothing else.
func (j *Journal) IsUndone(sandbox string) bool {
	for _, file := range j.undoneFiles(sandbox, time.Now()) {
		if _, err := os.Stat(file); err == nil {
			return true
		}
	}
	return false
}

// Finish removes the record of a sandbox, all of which is undone, and notes that.
func (j *Journal) Finish(ctx context.Context, sandbox string) error {
	if err := j.Remove(ctx, sandbox); err != nil {
		return err
	}
	j.noteUndone(sandbox, time.Now())
	return nil
}

// noteUndone makes the note. The first of an hour removes those of the hours before the last.
// Nothing depends on its success.
func (j *Journal) noteUndone(sandbox string, now time.Time) {
	files := j.undoneFiles(sandbox, now)
	hour, last := filepath.Dir(files[0]), filepath.Dir(files[1])
	if os.WriteFile(files[0], nil, 0o600) == nil {
		return
	}
	hours, _ := os.ReadDir(filepath.Dir(hour))
	for _, h := range hours {
		if h.Name() != filepath.Base(hour) && h.Name() != filepath.Base(last) {
			_ = os.RemoveAll(filepath.Join(filepath.Dir(hour), h.Name()))
		}
	}
	_ = os.MkdirAll(hour, 0o700)
	_ = os.WriteFile(files[0], nil, 0o600)
}

// forgetUndone removes the note: the sandbox is attached again.
func (j *Journal) forgetUndone(sandbox string) {
	for _, file := range j.undoneFiles(sandbox, time.Now()) {
		_ = os.Remove(file) // mostly there is none
	}
}

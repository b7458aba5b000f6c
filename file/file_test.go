package file

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"golang.org/x/sys/unix"
)

// folder is a folder of the test's with a file of the former content.
func folder(t *testing.T) (dir, path string) {
	t.Helper()
	dir = t.TempDir()
	path = filepath.Join(dir, "f.conf")
	if err := os.WriteFile(path, []byte("former"), 0o640); err != nil {
		t.Fatal(err)
	}
	return dir, path
}

// files are the names in a folder with their contents.
func files(t *testing.T, dir string) string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, e := range entries {
		data, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, fmt.Sprintf("%s=%s", e.Name(), data))
	}
	return strings.Join(all, " ")
}

// The steps come in an order by which a loss of power, too, leaves one of the two
// contents: the new one is on the disk before it has the path.
func TestSteps(t *testing.T) {
	_, path := folder(t)
	folderName := filepath.Base(filepath.Dir(path))
	for _, c := range []struct {
		name string
		of   Replacement
		want []string
	}{
		{"durable", Replacement{}, []string{"create f.conf.new", "write", "sync", "close", "rename f.conf.new f.conf", "sync folder " + folderName}},
		{"volatile", Replacement{Volatile: true}, []string{"create f.conf.new", "write", "close", "rename f.conf.new f.conf"}},
		{"temporary file of another name", Replacement{Temp: ".t"}, []string{"create .t", "write", "sync", "close", "rename .t f.conf", "sync folder " + folderName}},
	} {
		disk := &brokenDisk{}
		c.of.Path, c.of.Mode, c.of.Disk = path, 0o600, disk
		if err := c.of.Write(bytes.NewReader([]byte("new"))); err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
		if !slices.Equal(disk.calls, c.want) {
			t.Errorf("%s: steps %q, want %q", c.name, disk.calls, c.want)
		}
	}
}

// Each step fails: the former file is there, or the new one when only the folder's fsync
// has failed, and no other one.
func TestEachStepFails(t *testing.T) {
	for _, volatile := range []bool{false, true} {
		for fails := 1; ; fails++ {
			dir, path := folder(t)
			disk := &brokenDisk{fails: fails}
			err := Replacement{Path: path, Mode: 0o600, Volatile: volatile, Disk: disk}.Write(strings.NewReader("new content"))
			if len(disk.calls) < fails {
				if err != nil || fails < 4 {
					t.Errorf("without a failure: %v, after steps %q", err, disk.calls)
				}
				break
			}
			step := disk.calls[fails-1]
			if !errors.Is(err, errBroken) {
				t.Errorf("%s fails: %v", step, err)
			}
			want := "f.conf=former"
			if strings.HasPrefix(step, "sync folder") {
				want = "f.conf=new content"
			}
			if got := files(t, dir); got != want {
				t.Errorf("%s fails: the folder has %s, want %s", step, got, want)
			}
		}
	}
}

// A process is killed at each step: the path stands for one of the two contents, whole,
// and the next Write is in nobody's way.
func TestKilledAtEachStep(t *testing.T) {
	for fails := 1; ; fails++ {
		dir, path := folder(t)
		disk := &brokenDisk{fails: fails, dead: true}
		err := Replacement{Path: path, Mode: 0o600, Disk: disk}.Write(strings.NewReader("new content"))
		if len(disk.calls) < fails {
			break
		}
		step := disk.calls[fails-1]
		data, errRead := os.ReadFile(path)
		if got := string(data); err == nil || errRead != nil || got != "former" && got != "new content" {
			t.Errorf("killed at %s: %v; %q, %v", step, err, data, errRead)
		}
		if err := writeFile(path, 0o600, []byte("next")); err != nil {
			t.Errorf("after a kill at %s: %v", step, err)
		}
		if got := files(t, dir); got != "f.conf=next" {
			t.Errorf("after a kill at %s the folder has %s", step, got)
		}
	}
}

// What is left of a killed writer is removed, not written into: it may be a link.
func TestLeftTemporaryFile(t *testing.T) {
	dir, path := folder(t)
	other := filepath.Join(dir, "other")
	for name, plant := range map[string]func(temp string) error{
		"a file":          func(temp string) error { return os.WriteFile(temp, []byte("half"), 0o644) },
		"a link":          func(temp string) error { return os.Symlink(other, temp) },
		"a hard link":     func(temp string) error { return os.Link(other, temp) },
		"a fifo":          func(temp string) error { return unix.Mkfifo(temp, 0o600) },
		"an empty folder": func(temp string) error { return os.Mkdir(temp, 0o700) },
	} {
		if err := errors.Join(os.WriteFile(other, []byte("other's"), 0o600), plant(path+Ending)); err != nil {
			t.Fatal(err)
		}
		if err := writeFile(path, 0o600, []byte("new")); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if got, want := files(t, dir), "f.conf=new other=other's"; got != want {
			t.Errorf("%s: the folder has %s, want %s", name, got, want)
		}
	}
	// What cannot be removed is in the error.
	if err := os.MkdirAll(path+Ending+"/x", 0o700); err != nil {
		t.Fatal(err)
	}
	if err := writeFile(path, 0o600, []byte("newer")); err == nil || !strings.Contains(err.Error(), path+Ending) {
		t.Errorf("a full folder at the temporary file's name: %v", err)
	}
	if data, err := os.ReadFile(path); string(data) != "new" {
		t.Errorf("%q, %v", data, err)
	}
}

// What has the path is replaced: a link and not what it leads to, a FIFO without waiting
// for a reader. A folder is in the way.
func TestReplacesWhatHasThePath(t *testing.T) {
	dir, path := folder(t)
	other := filepath.Join(dir, "other")
	for name, plant := range map[string]func() error{
		"nothing":         func() error { return nil },
		"a file":          func() error { return os.WriteFile(path, []byte("former"), 0o777) },
		"a link":          func() error { return os.Symlink(other, path) },
		"a dangling link": func() error { return os.Symlink("nowhere", path) },
		"a hard link":     func() error { return os.Link(other, path) },
		"a fifo":          func() error { return unix.Mkfifo(path, 0o600) },
	} {
		err := errors.Join(os.Remove(path), os.WriteFile(other, []byte("other's"), 0o600), plant())
		if err != nil {
			t.Fatal(err)
		}
		if err := writeFile(path, 0o640, []byte("new")); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if got, want := files(t, dir), "f.conf=new other=other's"; got != want {
			t.Errorf("%s: the folder has %s, want %s", name, got, want)
		}
		if st, err := os.Lstat(path); err != nil || st.Mode() != 0o640 {
			t.Errorf("%s: %v, %v", name, st.Mode(), err)
		}
	}
	if err := errors.Join(os.Remove(path), os.Mkdir(path, 0o700)); err != nil {
		t.Fatal(err)
	}
	if err := writeFile(path, 0o600, nil); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("a folder has the path: %v", err)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 2 {
		t.Errorf("the folder has %v, %v", entries, err)
	}
}

// The mode is the one that was asked for, whatever the umask takes or gives.
func TestMode(t *testing.T) {
	_, path := folder(t)
	for _, umask := range []int{0, 0o022, 0o077} {
		for _, mode := range []fs.FileMode{0o600, 0o644, 0o755, 0o666} {
			old := unix.Umask(umask)
			err := writeFile(path, mode, []byte("x"))
			unix.Umask(old)
			st, errStat := os.Stat(path)
			if err != nil || errStat != nil || st.Mode() != mode {
				t.Errorf("umask %o: mode %v, want %v; %v, %v", umask, st.Mode(), mode, err, errStat)
			}
		}
	}
}

// Content that cannot be read to its end does not take the place of the former one.
func TestBrokenContent(t *testing.T) {
	dir, path := folder(t)
	content := io.MultiReader(strings.NewReader("half"), iotest.ErrReader(errBroken))
	if err := (Replacement{Path: path, Mode: 0o600}).Write(content); !errors.Is(err, errBroken) {
		t.Errorf("%v", err)
	}
	if got := files(t, dir); got != "f.conf=former" {
		t.Errorf("the folder has %s", got)
	}
}

// A missing folder is an error with the path; none is made.
func TestMissingFolder(t *testing.T) {
	path := filepath.Join(t.TempDir(), "none", "f")
	if err := writeFile(path, 0o600, nil); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), path) {
		t.Errorf("%v", err)
	}
	if err := (Local{}).SyncFolder(filepath.Dir(path)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("fsync of a folder that is not there: %v", err)
	}
}

// A full disk leaves the former content, and no temporary file.
func TestFullDisk(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED: mounting a small tmpfs needs root")
	}
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=64k"); err != nil {
		t.Skip("SKIPPED: mount tmpfs:", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	path := filepath.Join(dir, "f")
	if err := writeFile(path, 0o600, []byte("former")); err != nil {
		t.Fatal(err)
	}
	if err := writeFile(path, 0o600, make([]byte, 1<<20)); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("%v, want %v", err, unix.ENOSPC)
	}
	if got := files(t, dir); got != "f=former" {
		t.Errorf("the folder has %s", got)
	}
}

// Folders that were missing are made, each of them on the disk; those that are there are
// not touched.
func TestMakeFolder(t *testing.T) {
	dir := t.TempDir()
	disk := &brokenDisk{}
	if err := MakeFolder(disk, dir+"/a/b", 0o711); err != nil {
		t.Fatal(err)
	}
	want := []string{"mkdir b", "mkdir a", "sync folder " + filepath.Base(dir), "mkdir b", "sync folder a"}
	if !slices.Equal(disk.calls, want) {
		t.Errorf("steps %q, want %q", disk.calls, want)
	}
	if st, err := os.Stat(dir + "/a/b"); err != nil || st.Mode() != fs.ModeDir|0o711 {
		t.Errorf("%v, %v", st, err)
	}
	disk = &brokenDisk{}
	if err := MakeFolder(disk, dir+"/a/b", 0o700); err != nil || len(disk.calls) != 1 {
		t.Errorf("a folder that is there: steps %q, %v", disk.calls, err)
	}
	for fails := 1; fails <= len(want); fails++ {
		disk := &brokenDisk{fails: fails}
		if err := MakeFolder(disk, fmt.Sprintf("%s/%d/b", dir, fails), 0o700); !errors.Is(err, errBroken) {
			t.Errorf("%s fails: %v", disk.calls[fails-1], err)
		}
	}
}

// writeFile is Replacement.Write with defaults.
func writeFile(path string, mode fs.FileMode, data []byte) error {
	return Replacement{Path: path, Mode: mode}.Write(bytes.NewReader(data))
}

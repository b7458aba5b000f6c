package shareddir

import (
	"errors"
	"os"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/plexus-cni/plexus/delegates"
)

// Provide tells each step before it is made, and makes none that is refused.
func TestProvide(t *testing.T) {
	refused := errors.New("refused")
	for stop := range 3 { // at no step, the first, the second
		u, err := choose(wish(tempDir(t)), nil)
		must(t, err)
		var steps []string
		ctx := delegates.WithSteps(t.Context(), func(step string) error {
			if steps = append(steps, step); len(steps) == stop {
				return refused
			}
			return nil
		})
		err = u.Provide(ctx, "net1", []byte("{}"))
		want := []string{"net1: make folder " + u.Dir, "net1: write " + u.Config}
		if stop == 1 {
			want = want[:1]
		}
		if !slices.Equal(steps, want) || (err != nil) != (stop > 0) || stop > 0 && !errors.Is(err, refused) {
			t.Errorf("stopped at step %d: steps %q, want %q; %v", stop, steps, want, err)
		}
		if exists(u.Dir) != (stop != 1) || exists(u.Place(u.Config)) != (stop == 0) {
			t.Errorf("stopped at step %d: the folder has %s", stop, tree(t, u.Dir))
		}
	}
	u, err := choose(wish(tempDir(t)), nil)
	must(t, err)
	u.Config = ""
	must(t, u.Provide(t.Context(), "net1", nil))
	if entries, err := os.ReadDir(u.Dir); err != nil || len(entries) > 0 {
		t.Errorf("without a configuration file the folder has %v, %v", entries, err)
	}
}

// What is in the way of Provide is named.
func TestProvideErrors(t *testing.T) {
	u, err := choose(wish(tempDir(t)), nil)
	must(t, err)
	must(t, os.MkdirAll(u.Place(u.Config)+"/x", 0o755))
	wantError(t, u.Provide(t.Context(), "net1", nil), "write "+u.Config, u.Dir, "no regular file")
	base := tempDir(t) + "/base"
	write(t, base)
	u, err = choose(wish(base), nil)
	if err == nil {
		err = u.Provide(t.Context(), "net1", nil)
	}
	wantError(t, err, base)
}

// Missing and Check say what of the folder, the file and the short path is gone.
func TestMissing(t *testing.T) {
	base := tempDir(t)
	for _, c := range []struct {
		name   string
		spoil  func(u *Use)
		want   []string // beginnings
		check  string   // of a socket of the vswitch
		config bool
	}{
		{"nothing", func(*Use) {}, nil, "", true},
		{"the file", func(u *Use) { must(t, os.Remove(u.Place(u.Config))) }, []string{"file "}, "", true},
		{"a file that is not asked for", func(u *Use) { must(t, os.Remove(u.Place(u.Config))) }, nil, "", false},
		{"the socket", func(u *Use) { must(t, os.Remove(u.Place("sock"))) }, nil, "sock is gone", true},
		{"the folder", func(u *Use) { must(t, os.RemoveAll(u.Dir)) }, []string{"folder ", "file "}, "is gone", true},
		{"the link", func(u *Use) { must(t, os.Remove(u.Link)) }, []string{"short path "}, "short path", true},
		{"where the link leads", func(u *Use) { must(t, os.Remove(u.Link)); must(t, os.Symlink("/", u.Link)) }, nil, "gone or changed", true},
		{"all", func(u *Use) { must(t, os.RemoveAll(u.Dir)); must(t, os.Remove(u.Link)) }, []string{"folder ", "short path ", "file "}, "is gone", true},
	} {
		u, err := choose(wish(base), nil)
		must(t, err)
		must(t, u.Make())
		must(t, u.WriteFile(u.Config, nil))
		socketAt(t, u.Place("sock"))
		u.Link = base + "/link"
		must(t, os.Symlink(u.Dir, u.Link))
		c.spoil(&u)
		config := u.Config
		if !c.config {
			config = ""
		}
		gone, err := u.Missing(config)
		if err != nil || !slices.EqualFunc(gone, c.want, strings.HasPrefix) {
			t.Errorf("%s is gone: %q, %v; want %q", c.name, gone, err, c.want)
		}
		switch err := u.Check(true, "sock"); {
		case c.check == "" && err != nil:
			t.Errorf("%s is gone: Check: %v", c.name, err)
		case c.check != "":
			wantError(t, err, c.check)
		}
		if exists(u.Link) && exists(u.Dir) && c.name != "where the link leads" {
			must(t, u.Check(false, "none")) // a socket that the pod makes comes and goes
		}
		clear(t, &u, true)
		if exists(u.Dir) || exists(u.Link) {
			t.Errorf("%s is gone: Clear leaves %s", c.name, tree(t, base))
		}
	}
	u := Use{Folder: Folder{Dir: base + "/x", Own: true, Link: "/proc/self/stat/x"}}
	if _, err := u.Missing(""); !errors.Is(err, unix.ENOTDIR) {
		t.Errorf("a short link that cannot be looked at: %v", err)
	}
}

// A name that no file of a folder can have is refused.
func TestCheckFileName(t *testing.T) {
	for name, says := range map[string]string{
		"": "", "sock": "", "..sock": "", "a b": "", strings.Repeat("n", 250): "",
		strings.Repeat("n", 251): "251 bytes, at most 250",
		"a/b":                    "without a folder", "..": "without a folder", ".": "without a folder", "/": "without a folder", "a\x00": "without a folder",
		"a\n": "control character", "a\x7f": "control character",
	} {
		err := CheckFileName(name)
		if says == "" && err != nil {
			t.Errorf("%q: %v", name, err)
		} else if says != "" {
			wantError(t, err, says)
		}
	}
}

// A name that is too long for the file system is an error, not a socket that is gone.
func TestNamesTooLong(t *testing.T) {
	u, err := choose(wish(tempDir(t)), nil)
	must(t, err)
	must(t, u.Make())
	run := tempDir(t)
	socketAt(t, run+"/vhu1")
	origin, err := OpenSocket(run, "vhu1")
	must(t, err)
	defer origin.Close()
	long := strings.Repeat("n", 256)
	_, errMissing := u.Missing(long)
	_, errLinked := u.Linked(origin, long)
	for what, err := range map[string]error{
		"Missing": errMissing, "Linked": errLinked, "Vacant": u.Vacant(long, "file", true), "Check": u.Check(true, long),
		"LinkSocket": u.LinkSocket(origin, long, "file"), "WriteFile": u.WriteFile(long, nil),
	} {
		if !errors.Is(err, unix.ENAMETOOLONG) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if u.Listened(long) {
		t.Error("somebody listens at a name that cannot be")
	}
	u.Dir = run + "/none"
	if _, err := u.Linked(origin, "sock"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("without the folder: %v", err)
	}
	if err := u.Vacant("sock", "file", true); err != nil || u.Listened("sock") {
		t.Errorf("without the folder: %v", err)
	}
	if _, err := OpenSocket(run+"/none", "vhu1"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("without the vswitch's folder: %v", err)
	}
}

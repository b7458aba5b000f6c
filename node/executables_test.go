package node

import (
	"bufio"
	"context"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"
)

// image is the folder of a version's executables.
func image(version string) fstest.MapFS {
	m := fstest.MapFS{}
	for _, name := range executables() {
		m[name] = &fstest.MapFile{Data: []byte(name + " " + version), Mode: 0o555}
	}
	return m
}

func (r *rig) install(from fs.FS) *Executables {
	r.t.Helper()
	done, err := r.Node.Executables(r.t.Context(), from)
	if err != nil {
		r.t.Fatal(err)
	}
	return done
}

const everyExecutable = "ovsdpdk plexus plexusbuiltin plexusctl plexusd sriov userspace vppmemif"

func TestExecutables(t *testing.T) {
	r := newRig(t)
	done := r.install(image("1"))
	if len(done.Written) != 8 || len(done.Foreign) != 0 {
		t.Errorf("%+v", done)
	}
	if got := r.names(r.BinDir); got != everyExecutable {
		t.Errorf("there are %s", got)
	}
	for _, name := range executables() {
		st, err := os.Stat(filepath.Join(r.BinDir, name))
		if err != nil || st.Mode() != 0o755 || r.read(filepath.Join(r.BinDir, name)) != name+" 1" {
			t.Errorf("%s: %v, %v", name, st, err)
		}
	}
	if got := r.read(filepath.Join(r.BinDir, "ovsdpdk")); got != "plexusbuiltin 1" {
		t.Errorf("ovsdpdk is %q", got)
	}
}

// What is there already is not written again, what is not as it should be is.
func TestExecutablesAgain(t *testing.T) {
	r := newRig(t)
	r.install(image("1"))
	if done := r.install(image("1")); len(done.Written) != 0 {
		t.Errorf("written again: %v", done.Written)
	}
	plexusd := filepath.Join(r.BinDir, "plexusd")
	if err := os.Chmod(plexusd, 0o600); err != nil {
		t.Fatal(err)
	}
	if done := r.install(image("1")); !slices.Equal(done.Written, []string{"plexusd"}) {
		t.Errorf("after chmod: %v", done.Written)
	}
	if err := os.Remove(plexusd); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/nowhere", plexusd); err != nil {
		t.Fatal(err)
	}
	if done := r.install(image("2")); !slices.Equal(done.Written, executables()) {
		t.Errorf("of the next version: %v", done.Written)
	}
	if got := r.read(plexusd); got != "plexusd 2" {
		t.Errorf("plexusd is %q", got)
	}
}

// Links that are somebody else's stay; hard links of ours follow an upgrade.
func TestExecutablesOfOthers(t *testing.T) {
	r := newRig(t)
	r.install(image("1"))
	at := func(name string) string { return filepath.Join(r.BinDir, name) }
	for _, do := range []error{
		os.Remove(at("sriov")), os.WriteFile(at("sriov"), []byte("sriov-cni"), 0o755),
		os.Remove(at("userspace")), os.Link(at("plexus"), at("userspace")),
		os.Remove(at("ovsdpdk")), os.Symlink("/nowhere/ovsdpdk", at("ovsdpdk")),
		os.Remove(at("vppmemif")), os.Symlink(at("plexus"), at("vppmemif")),
	} {
		if do != nil {
			t.Fatal(do)
		}
	}
	done := r.install(image("2"))
	if diff := cmp.Diff([]string{"sriov", "ovsdpdk"}, done.Foreign); diff != "" {
		t.Error(diff)
	}
	if got := r.read(at("sriov")); got != "sriov-cni" {
		t.Errorf("sriov is %q", got)
	}
	for _, name := range []string{"userspace", "vppmemif"} {
		if got := r.read(at(name)); got != "plexusbuiltin 2" {
			t.Errorf("%s is %q", name, got)
		}
	}
	if !strings.Contains(r.log.String(), "somebody else's") {
		t.Errorf("the log says nothing: %s", r.log)
	}
	removed, err := r.removeExecutables()
	if err != nil || len(removed) != 6 {
		t.Errorf("removed %v, %v", removed, err)
	}
	if got := r.names(r.BinDir); got != "ovsdpdk sriov" {
		t.Errorf("left are %s", got)
	}
}

// An installer that is killed in the middle leaves the old executables, and
// nothing that the next one does not clear away.
func TestExecutablesKilled(t *testing.T) {
	r := newRig(t)
	r.install(image("1"))
	killInstaller(t, strings.TrimSuffix(r.BinDir, "/opt/cni/bin"))
	if got := r.read(filepath.Join(r.BinDir, "plexusd")); got != "plexusd 1" {
		t.Errorf("plexusd is %q", got)
	}
	if !strings.HasPrefix(r.names(r.BinDir), tempPrefix) {
		t.Fatalf("the killed installer has left nothing: %s", r.names(r.BinDir))
	}
	r.install(image("2"))
	if got := r.names(r.BinDir); got != everyExecutable {
		t.Errorf("there are %s", got)
	}
	if got := r.names(filepath.Dir(r.Lock)); got != "" {
		t.Errorf("beside the lock: %s", got)
	}
}

// An executable that runs is replaced, and the new one can be executed at once.
func TestExecutablesThatRun(t *testing.T) {
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	r := newRig(t)
	of := func(data []byte) fstest.MapFS {
		m := image("1")
		m["plexusd"] = &fstest.MapFile{Data: data, Mode: 0o755}
		return m
	}
	r.install(of(self))
	cmd := exec.Command(filepath.Join(r.BinDir, "plexusd"))
	cmd.Env = append(os.Environ(), runningExecutable+"=1")
	stdin, errIn := cmd.StdinPipe()
	stdout, errOut := cmd.StdoutPipe()
	if errIn != nil || errOut != nil {
		t.Fatal(errIn, errOut)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(stdout).ReadString('\n'); line != "running\n" {
		t.Errorf("it says %q, %v", line, err)
	}
	r.install(of(append(self, 0)))
	next := exec.Command(filepath.Join(r.BinDir, "plexusd"))
	next.Env = cmd.Env
	if out, err := next.Output(); err != nil || string(out) != "running\n" {
		t.Errorf("the new one: %q, %v", out, err)
	}
	if err := stdin.Close(); err != nil {
		t.Error(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}

// Two installers of different versions: the result is one of them, whole.
func TestExecutablesRace(t *testing.T) {
	r := newRig(t)
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			n := &Node{Paths: r.Paths, Log: slog.New(slog.DiscardHandler)}
			if _, err := n.Executables(context.Background(), image([]string{"1", "2"}[i%2])); err != nil {
				t.Error(err)
			}
		}()
	}
	wg.Wait()
	if got := r.names(r.BinDir); got != everyExecutable {
		t.Errorf("there are %s", got)
	}
	version := strings.TrimPrefix(r.read(filepath.Join(r.BinDir, "plexus")), "plexus")
	for _, name := range executables() {
		if got := r.read(filepath.Join(r.BinDir, name)); got != name+version {
			t.Errorf("%s is %q, plexus is of version%s", name, got, version)
		}
	}
}

func TestExecutablesRefused(t *testing.T) {
	empty := image("1")
	empty["plexusctl"].Data = nil
	missing := image("1")
	delete(missing, "plexus")
	for _, c := range []struct {
		name    string
		from    fs.FS
		prepare func(r *rig) error
		want    string
	}{
		{"empty", empty, nil, "install executable plexusctl: the source is no regular file, or empty"},
		{"missing", missing, nil, "install executable plexus: open plexus"},
		{"a folder", image("1"), func(r *rig) error { return os.Mkdir(filepath.Join(r.BinDir, "plexusd"), 0o755) }, "install executable plexusd: write "},
		{"no folder", image("1"), func(r *rig) error {
			if err := os.Remove(r.BinDir); err != nil {
				return err
			}
			return os.WriteFile(r.BinDir, nil, 0o600)
		}, "folder of executables: "},
		{"relative", image("1"), func(r *rig) error { r.BinDir = "bin"; return nil }, `folder of executables: "bin", want an absolute path`},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t)
			if c.prepare != nil {
				if err := c.prepare(r); err != nil {
					t.Fatal(err)
				}
			}
			_, err := r.Node.Executables(t.Context(), c.from)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("error %v, want %q", err, c.want)
			}
			if st, err := os.Stat(r.BinDir); err == nil && st.IsDir() && strings.Contains(r.names(r.BinDir), tempPrefix) {
				t.Errorf("left: %s", r.names(r.BinDir))
			}
		})
	}
}

// The installer makes the links that the Makefile makes.
func TestLinksAreThoseOfTheMakefile(t *testing.T) {
	makefile, err := os.ReadFile("../Makefile")
	if err != nil {
		t.Fatal(err)
	}
	if want := "\nLINKS   := " + strings.Join(links(), " ") + "\n"; !strings.Contains(string(makefile), want) {
		t.Errorf("the Makefile does not say %q", want)
	}
}

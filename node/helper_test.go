package node

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
)

// killedInstaller, in the environment, makes this executable an installer that
// writes half of plexusd and then waits to be killed.
const killedInstaller = "PLEXUS_TEST_INSTALL_HALF"

// runningExecutable makes it one that waits for the end of its input.
const runningExecutable = "PLEXUS_TEST_INSTALL_WAIT"

func TestMain(m *testing.M) {
	if dir := os.Getenv(killedInstaller); dir != "" {
		n := &Node{Paths: pathsIn(dir), Log: slog.New(slog.DiscardHandler)}
		_, err := n.Executables(context.Background(), halfFS{})
		fmt.Println("it came to an end:", err)
		os.Exit(1)
	}
	if os.Getenv(runningExecutable) != "" {
		fmt.Println("running")
		_, _ = io.Copy(io.Discard, os.Stdin)
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// halfFS has files that say so when they are half read, and never end.
type halfFS struct{}

func (halfFS) Open(name string) (fs.File, error) { return &halfFile{name: name}, nil }

type halfFile struct {
	name string
	read bool
}

func (f *halfFile) Stat() (fs.FileInfo, error) {
	return fs.Stat(fstest.MapFS{f.name: {Data: make([]byte, 100), Mode: 0o755}}, f.name)
}

func (f *halfFile) Read(p []byte) (int, error) {
	if !f.read {
		f.read = true
		return copy(p, "half"), nil
	}
	fmt.Println("half")
	select {}
}

func (f *halfFile) Close() error { return nil }

// killInstaller has an installer killed in the middle of a file.
func killInstaller(t *testing.T, dir string) {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), killedInstaller+"="+dir)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil || line != "half\n" {
		t.Errorf("the installer says %q, %v", line, err)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // it was killed
}

func pathsIn(dir string) Paths {
	return Paths{
		BinDir:  filepath.Join(dir, "opt/cni/bin"),
		ConfDir: filepath.Join(dir, "etc/cni/net.d"),
		CredDir: filepath.Join(dir, "etc/cni/net.d/plexus.d"),
		DataDir: filepath.Join(dir, "var/lib/plexus"),
		Socket:  filepath.Join(dir, "run/plexus/agent.sock"),
		Lock:    filepath.Join(dir, "run/plexus/install.lock"),
	}
}

// rig is a node in a folder of the test's.
type rig struct {
	*Node
	t   *testing.T
	log *syncBuffer
}

func newRig(t *testing.T) *rig {
	t.Helper()
	log := &syncBuffer{}
	n := &Node{Paths: pathsIn(t.TempDir()), Log: slog.New(slog.NewTextHandler(log, nil))}
	for _, dir := range []string{n.ConfDir, n.BinDir} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return &rig{Node: n, t: t, log: log}
}

// put writes a file of the runtime's folder.
func (r *rig) put(name, text string) {
	r.t.Helper()
	path := filepath.Join(r.ConfDir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		r.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) drop(name string) {
	r.t.Helper()
	if err := os.Remove(filepath.Join(r.ConfDir, name)); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) settings(text string) *rig {
	r.t.Helper()
	s, err := ParseSettings([]byte(text))
	if err != nil {
		r.t.Fatal(err)
	}
	r.Settings = s
	return r
}

// configure is a pass that has to succeed, and a second one that has nothing to
// do.
func (r *rig) configure() State {
	r.t.Helper()
	s, err := r.Configure(r.t.Context())
	if err != nil {
		r.t.Fatal(err)
	}
	again, err := r.Configure(r.t.Context())
	if err != nil || again.Changed || again.File != s.File || again.Adopted != s.Adopted {
		r.t.Errorf("a second pass: %+v, %v", again, err)
	}
	return s
}

// names are the files of a folder.
func (r *rig) names(dir string) string {
	r.t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		r.t.Fatal(err)
	}
	var all []string
	for _, e := range entries {
		all = append(all, e.Name())
	}
	return strings.Join(all, " ")
}

func (r *rig) read(path string) string {
	r.t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		r.t.Fatal(err)
	}
	return string(data)
}

// in makes a path of the rig's readable: below its folder.
func (r *rig) in(path string) string {
	return strings.TrimPrefix(path, r.ConfDir+"/")
}

type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

package shareddir

import (
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/plexus-cni/plexus/conf"
	"github.com/plexus-cni/plexus/delegates"
)

const (
	sandbox = "0123456789abcdef0123456789abcdef"
	ownName = "0123456789abcdef01234567"
	unique  = "vhu1"
)

// anyGroup is a group that this user may give to a file: not root's, for root.
func anyGroup(t testing.TB) (name string, gid int) {
	t.Helper()
	gid = os.Getgid()
	if os.Getuid() == 0 {
		gid = 1
	}
	g, err := user.LookupGroupId(strconv.Itoa(gid))
	if err != nil {
		t.Skip(err)
	}
	return g.Name, gid
}

// needRoot skips a test that a user other than root cannot do.
func needRoot(t testing.TB) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("SKIPPED: this needs root: it mounts, or works in folders of the node")
	}
}

// tempDir is a folder with a path short enough for sockets.
func tempDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "sd")
	must(t, err)
	must(t, os.Chmod(dir, 0o755))
	t.Cleanup(func() { must(t, os.RemoveAll(dir)) })
	return dir
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// wantError wants an error that says every one of the words.
func wantError(t testing.TB, err error, words ...string) {
	t.Helper()
	if err == nil {
		t.Errorf("no error, want one that says %q", words)
		return
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("error %q does not say %q", err, w)
		}
	}
}

func write(t testing.TB, path string) {
	t.Helper()
	must(t, os.MkdirAll(filepath.Dir(path), 0o755))
	must(t, os.WriteFile(path, []byte("somebody's"), 0o640))
}

// socketAt leaves a socket that nobody listens at, as a dead application does.
func socketAt(t testing.TB, path string) {
	t.Helper()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	must(t, err)
	l.SetUnlinkOnClose(false)
	must(t, l.Close())
}

// listenAt listens at a socket until the test ends.
func listenAt(t testing.TB, path string) {
	t.Helper()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	must(t, err)
	t.Cleanup(func() { l.Close() })
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

func inode(t testing.TB, path string) *syscall.Stat_t {
	t.Helper()
	st, err := os.Lstat(path)
	must(t, err)
	return st.Sys().(*syscall.Stat_t)
}

func podWith(dir string) *conf.Pod {
	return &conf.Pod{Namespace: "default", Name: "p", Volumes: []conf.Volume{{Name: conf.SharedDir, HostPath: dir}}}
}

func wish(base string) Options {
	return Options{Base: base, Key: func(name string) string { return "vhost." + name }}
}

// choose is Choose for the socket sock.
func choose(w Options, pod *conf.Pod) (Use, error) {
	f, err := Choose(w, attachmentOf(pod), "sock", unique)
	return Use{Folder: f, File: "sock", Config: ConfigFile(sandbox, "net1")}, err
}

func attachmentOf(pod *conf.Pod) *delegates.Attachment {
	return &delegates.Attachment{Sandbox: sandbox, IfName: "net1", Pod: pod}
}

// clear is Clear; it gives the warnings.
func clear(t testing.TB, u *Use, recorded bool, others ...Use) string {
	t.Helper()
	var text strings.Builder
	must(t, u.Clear(Clearing{Log: slog.New(slog.NewTextHandler(&text, nil)), Others: others, Recorded: recorded}))
	return text.String()
}

// tree is all that can be seen of what is below a folder: names, modes, owners,
// contents, links.
func tree(t testing.TB, dir string) string {
	t.Helper()
	var text strings.Builder
	must(t, filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		st := inode(t, path)
		fmt.Fprintf(&text, "%s %o %d:%d inode %d links %d", path, st.Mode, st.Uid, st.Gid, st.Ino, st.Nlink)
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFREG:
			data, err := os.ReadFile(path)
			must(t, err)
			fmt.Fprintf(&text, " %q", data)
		case unix.S_IFLNK:
			at, err := os.Readlink(path)
			must(t, err)
			fmt.Fprintf(&text, " -> %s", at)
		}
		fmt.Fprintln(&text)
		return nil
	}))
	return text.String()
}

// watched fails the test if anything below a folder changes.
func watched(t testing.TB, dir string) {
	t.Helper()
	before := tree(t, dir)
	t.Cleanup(func() {
		if after := tree(t, dir); after != before {
			t.Errorf("what is not plexus' has changed\nbefore:\n%safter:\n%s", before, after)
		}
	})
}

// victim is a watched folder of the node, with what a pod would like to see touched.
func victim(t testing.TB) string {
	t.Helper()
	dir := filepath.Join(tempDir(t), "victim")
	write(t, dir+"/file")
	write(t, dir+"/"+ConfigFile(sandbox, "net1"))
	socketAt(t, dir+"/sock")
	must(t, os.Mkdir(dir+"/empty", 0o755))
	watched(t, dir)
	return dir
}

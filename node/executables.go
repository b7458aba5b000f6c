package node

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/plexus-cni/plexus/file"
)

// executables are what is copied, in this order: plexus executes plexusd and plexusbuiltin, so
// those are there first.
func executables() []string { return []string{"plexusd", builtinExecutable, "plexusctl", "plexus"} }

// builtinExecutable is the executable of the delegates alone. Former versions have linked plexus instead.
const builtinExecutable = "plexusbuiltin"

// links are the names under which it is one delegate.
func links() []string { return []string{"sriov", "vppmemif", "ovsdpdk", "userspace"} }

// executableMode is that of an executable.
const executableMode fs.FileMode = 0o755

// Executables is the outcome for each executable.
type Executables struct {
	Written []string // copied or linked now, by name
	Foreign []string // links that were not made: an executable of that name is somebody else's
}

// Executables copies the executables from a folder to BinDir and
// links the built-in delegates to plexusbuiltin. An unchanged executable is not
// written again. A foreign executable under a delegate's name stays, and is reported.
func (n *Node) Executables(ctx context.Context, from fs.FS) (*Executables, error) {
	done := &Executables{}
	return done, n.locked(ctx, func() error {
		if err := os.MkdirAll(n.BinDir, 0o755); err != nil {
			return fmt.Errorf("folder of executables: %w", err)
		}
		if err := clearTemps(n.BinDir); err != nil {
			return err
		}
		if err := n.softenLinks(); err != nil {
			return err
		}
		for _, name := range executables() {
			changed, err := n.copyExecutable(from, name)
			if err != nil {
				return fmt.Errorf("install executable %s: %w", name, err)
			}
			if changed {
				done.Written = append(done.Written, name)
			}
		}
		return n.makeLinks(done)
	})
}

func (n *Node) copyExecutable(from fs.FS, name string) (changed bool, err error) {
	src, err := from.Open(name)
	if err != nil {
		return false, err
	}
	defer src.Close()
	st, err := src.Stat()
	if err != nil {
		return false, err
	}
	if !st.Mode().IsRegular() || st.Size() == 0 {
		return false, errors.New("the source is no regular file, or empty")
	}
	path := filepath.Join(n.BinDir, name)
	if have, err := os.Lstat(path); err == nil && have.Mode() == executableMode && have.Size() == st.Size() {
		same, err := sameContent(path, src)
		if err != nil {
			return false, err
		}
		if same {
			return false, nil
		}
		again, err := from.Open(name)
		if err != nil {
			return false, err
		}
		defer again.Close()
		return true, n.replaceExecutable(name, again)
	}
	return true, n.replaceExecutable(name, src)
}

// replaceExecutable holds back forks of this process while the file is open for writing:
// a child would have it open too until it calls exec, and executing the file meanwhile would
// fail with ETXTBSY.
func (n *Node) replaceExecutable(name string, content io.Reader) error {
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	return replace(n.BinDir, name, executableMode, content)
}

// sameContent compares a file with what can be read from other.
func sameContent(path string, other io.Reader) (bool, error) {
	f, err := os.Open(path)
	if err != nil {
		return false, err
	}
	defer f.Close()
	const block = 64 << 10
	a, b := make([]byte, block), make([]byte, block)
	for {
		na, errA := io.ReadFull(f, a)
		nb, errB := io.ReadFull(other, b)
		if !bytes.Equal(a[:na], b[:nb]) {
			return false, nil
		}
		switch {
		case errA == nil && errB == nil:
		case isEOF(errA) && isEOF(errB):
			return true, nil
		case errA != nil && !isEOF(errA):
			return false, errA
		case errB != nil && !isEOF(errB):
			return false, errB
		default:
			return false, nil
		}
	}
}

func isEOF(err error) bool { return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) }

// isPlexus reports whether a name in BinDir is a link of ours: a symbolic link to plexusbuiltin
// or plexus, or the same file as one of them.
func (n *Node) isPlexus(name string) (bool, error) {
	path := filepath.Join(n.BinDir, name)
	to, errLink := os.Readlink(path)
	for _, own := range []string{builtinExecutable, "plexus"} {
		target := filepath.Join(n.BinDir, own)
		if errLink == nil && (to == own || to == target) {
			return true, nil // the target itself may be missing
		}
		a, err := os.Stat(path)
		if errors.Is(err, fs.ErrNotExist) {
			return false, nil
		}
		if err != nil {
			return false, err
		}
		b, err := os.Stat(target)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return false, err
		}
		if err == nil && os.SameFile(a, b) {
			return true, nil
		}
	}
	return false, nil
}

// softenLinks replaces our hard links by symbolic ones before the executables are replaced: a
// hard link would stay the old executable. They lead to plexus, which is there, until makeLinks.
func (n *Node) softenLinks() error {
	for _, name := range links() {
		st, err := os.Lstat(filepath.Join(n.BinDir, name))
		if err != nil || !st.Mode().IsRegular() {
			continue // what is wrong with it is said when it is linked
		}
		ours, err := n.isPlexus(name)
		if err != nil {
			return fmt.Errorf("link %s: %w", name, err)
		}
		if !ours {
			continue
		}
		if err := n.replaceLink(name, "plexus"); err != nil {
			return err
		}
	}
	return nil
}

func (n *Node) replaceLink(name, to string) error {
	temp := filepath.Join(n.BinDir, tempPrefix+name)
	if err := os.Symlink(to, temp); err != nil {
		return fmt.Errorf("link %s: %w", name, err)
	}
	if err := os.Rename(temp, filepath.Join(n.BinDir, name)); err != nil {
		_ = os.Remove(temp)
		return fmt.Errorf("link %s: %w", name, err)
	}
	return nil
}

func (n *Node) makeLinks(done *Executables) error {
	for _, name := range links() {
		err := os.Symlink(builtinExecutable, filepath.Join(n.BinDir, name))
		if err == nil {
			done.Written = append(done.Written, name)
			continue
		}
		if !errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("link %s: %w", name, err)
		}
		ours, err := n.isPlexus(name)
		if err != nil {
			return fmt.Errorf("link %s: %w", name, err)
		}
		if to, _ := os.Readlink(filepath.Join(n.BinDir, name)); ours && to != builtinExecutable { // of a former version
			if err := n.replaceLink(name, builtinExecutable); err != nil {
				return err
			}
			done.Written = append(done.Written, name)
		}
		if !ours {
			done.Foreign = append(done.Foreign, name)
			n.Log.Warn("the executable is somebody else's and stays; configurations of plexus use the built-in delegate all the same", "file", filepath.Join(n.BinDir, name))
		}
	}
	return file.Local{}.SyncFolder(n.BinDir)
}

// removeExecutables removes our executables, links first.
func (n *Node) removeExecutables() (removed []string, err error) {
	var errs []error
	remove := func(name string) {
		err := os.Remove(filepath.Join(n.BinDir, name))
		switch {
		case err == nil:
			removed = append(removed, name)
		case !errors.Is(err, fs.ErrNotExist):
			errs = append(errs, fmt.Errorf("remove executable: %w", err))
		}
	}
	for _, name := range links() {
		ours, err := n.isPlexus(name)
		if err != nil {
			errs = append(errs, fmt.Errorf("remove link %s: %w", name, err))
		}
		if ours {
			remove(name)
		}
	}
	for _, name := range executables() {
		remove(name)
	}
	return removed, errors.Join(append(errs, clearTemps(n.BinDir))...)
}

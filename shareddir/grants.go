package shareddir

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Grants lets a vswitch that is not root connect to the sockets that pods make. A pod makes its
// socket at any time after ADD, and with the usual umask only its owner may connect: each
// socket gets the vswitch's group when it comes into being (inotify(7)).
type Grants struct {
	log *slog.Logger

	mu     sync.Mutex
	notify *os.File      // nil until it is needed
	fd     int           // of notify, whose Fd would make it block
	uses   map[int][]Use // by inotify's number of the folder
}

// NewGrants makes no grant yet.
func NewGrants(log *slog.Logger) *Grants { return &Grants{log: log, uses: map[int][]Use{}} }

// grantPause bounds what a pod that makes sockets without end costs the agent.
const grantPause = 20 * time.Millisecond

// Keep grants the use's socket now and whenever it is made again, until Drop or the end of the
// folder. Without a user of the vswitch there is nothing to grant.
func (g *Grants) Keep(u Use) error {
	if u.User == nil {
		return nil
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.notify == nil {
		fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
		if err != nil {
			return fmt.Errorf("inotify: %w", err)
		}
		g.notify, g.fd = os.NewFile(uintptr(fd), "inotify"), fd
		go g.follow(g.notify)
	}
	d, err := u.open()
	if err != nil {
		return err
	}
	defer d.close()
	number, err := unix.InotifyAddWatch(g.fd, procPath(d.File), unix.IN_CREATE|unix.IN_MOVED_TO|unix.IN_ONLYDIR)
	if err != nil {
		return d.failed("watch", "", err)
	}
	if !slices.ContainsFunc(g.uses[number], u.isPlaceOf) {
		g.uses[number] = append(g.uses[number], u)
	}
	return u.grant()
}

func (u Use) isPlaceOf(other Use) bool { return u.Dir == other.Dir && u.File == other.File }

// Drop ends what Keep began.
func (g *Grants) Drop(u Use) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for number, uses := range g.uses {
		if g.uses[number] = slices.DeleteFunc(uses, u.isPlaceOf); len(g.uses[number]) == 0 {
			delete(g.uses, number)
			_, _ = unix.InotifyRmWatch(g.fd, uint32(number)) // the kernel may have done so
		}
	}
}

// Close ends all of them.
func (g *Grants) Close() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.notify != nil {
		_ = g.notify.Close()
		g.notify = nil
	}
	g.uses = map[int][]Use{}
}

// follow reads inotify's events until the end.
func (g *Grants) follow(notify *os.File) {
	buffer := make([]byte, 64<<10)
	for {
		n, err := notify.Read(buffer)
		if err != nil {
			if !errors.Is(err, os.ErrClosed) {
				g.log.Warn("sockets of pods are not granted to the vswitch any more", "why", err)
			}
			return
		}
		for _, u := range g.named(buffer[:n]) {
			if err := u.grant(); err != nil {
				g.log.Warn("a pod's socket is closed for the vswitch", "socket", u.Place(u.File), "why", err)
			}
		}
		time.Sleep(grantPause)
	}
}

// named are the uses that events are about, all where events were lost.
func (g *Grants) named(events []byte) (named []Use) {
	g.mu.Lock()
	defer g.mu.Unlock()
	add := func(u Use) {
		if !slices.ContainsFunc(named, u.isPlaceOf) {
			named = append(named, u)
		}
	}
	for len(events) >= unix.SizeofInotifyEvent {
		number, mask := int(int32(binary.NativeEndian.Uint32(events))), binary.NativeEndian.Uint32(events[4:])
		end := unix.SizeofInotifyEvent + int(binary.NativeEndian.Uint32(events[12:]))
		name := string(bytes.TrimRight(events[unix.SizeofInotifyEvent:end], "\x00"))
		events = events[end:]
		switch {
		case mask&unix.IN_IGNORED != 0: // the folder is gone
			delete(g.uses, number)
		case mask&unix.IN_Q_OVERFLOW != 0:
			for _, uses := range g.uses {
				for _, u := range uses {
					add(u)
				}
			}
		}
		for _, u := range g.uses[number] {
			if u.File == name {
				add(u)
			}
		}
	}
	return named
}

// grant gives the pod's socket the group by which the vswitch connects. Any other file stays as
// it is.
func (u Use) grant() error {
	d, err := u.open()
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer d.close()
	f, err := openBelow(d.File, u.File, unix.O_PATH|unix.O_NOFOLLOW, 0, 0)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ELOOP) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	gid := u.GID
	if gid < 0 {
		gid = u.User.GIDs[0]
	}
	return openTo(f, -1, gid, 0o060)
}

// openTo gives an open socket an owner and a group, -1 for none, and more permissions.
func openTo(socket *os.File, uid, gid int, more uint32) error {
	var st unix.Stat_t
	if err := unix.Fstat(int(socket.Fd()), &st); err != nil || kind(st) != unix.S_IFSOCK {
		return err
	}
	if uid >= 0 && int(st.Uid) != uid || gid >= 0 && int(st.Gid) != gid {
		if err := unix.Fchownat(int(socket.Fd()), "", uid, gid, unix.AT_EMPTY_PATH); err != nil {
			return pathError("chown", socket.Name(), err)
		}
	}
	if st.Mode&more == more {
		return nil
	}
	return pathError("chmod", socket.Name(), os.Chmod(procPath(socket), fs.FileMode(st.Mode&0o777|more)))
}

// openToFolder opens the vswitch's socket for those who may make files in the folder: the pod.
// With a group of the configuration it is open for that one alone.
func (d *dir) openToFolder(socket *os.File, gid int) error {
	st, err := d.owner()
	switch {
	case err != nil:
		return err
	case gid >= 0:
		if err := openTo(socket, -1, gid, 0o660); err != nil {
			return err
		}
		return pathError("chmod", socket.Name(), os.Chmod(procPath(socket), 0o660))
	case st.Mode&unix.S_ISGID != 0 && st.Gid != 0: // the pod's fsGroup
		return openTo(socket, -1, int(st.Gid), 0o060)
	case st.Mode&0o002 != 0:
		return openTo(socket, -1, -1, 0o666)
	case st.Mode&0o020 != 0 && st.Gid != 0:
		return openTo(socket, -1, int(st.Gid), 0o060)
	case st.Uid != 0:
		return openTo(socket, int(st.Uid), -1, 0o600)
	}
	return nil
}

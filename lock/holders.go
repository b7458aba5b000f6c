package lock

import (
	"bufio"
	"bytes"
	"fmt"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// HeldError is the error of a lock that other processes held until the wait ended.
type HeldError struct {
	What    string   // the object
	Holders []string // processes, "NAME (pid N)"
	Cause   error    // why the wait ended
}

func (e *HeldError) Error() string {
	by := "held by " + strings.Join(e.Holders, ", ")
	if len(e.Holders) == 0 {
		by = "another operation on it is under way"
	}
	return fmt.Sprintf("lock %s: %s (%v): try again when it has ended; a process that hangs has to be killed", e.What, by, e.Cause)
}

// Unwrap gives the cause.
func (e *HeldError) Unwrap() error { return e.Cause }

// Temporary marks an error that may be gone when the runtime tries again.
func (e *HeldError) Temporary() bool { return true }

// searchTime bounds a search for processes, on a node that has very many.
const searchTime = time.Second

// maxHolders bounds how many processes of a lock are named.
const maxHolders = 8

// holders are the processes that hold locks of a table, by the byte of the object.
type holders map[int64][]string

func (h holders) of(object string) []string { return h[offset(object)] }

// search finds the processes that hold locks of the table: descriptors that have its
// file open, whose fdinfo has a line for each lock (proc_pid_fdinfo(5)). Processes of
// another PID namespace are not seen.
func (t Table) search() holders {
	found := holders{}
	var file unix.Stat_t
	if unix.Stat(string(t), &file) != nil {
		return found
	}
	for dir, fd := range descriptors() {
		var st unix.Stat_t
		if unix.Stat(filepath.Join(dir, "fd", fd), &st) != nil || st.Dev != file.Dev || st.Ino != file.Ino {
			continue
		}
		info, err := os.ReadFile(filepath.Join(dir, "fdinfo", fd))
		if err != nil {
			continue
		}
		for _, at := range lockedBytes(info) {
			if name := processName(dir); len(found[at]) < maxHolders && !slices.Contains(found[at], name) {
				found[at] = append(found[at], name)
			}
		}
	}
	return found
}

// Openers are the processes that have a device open, "NAME (pid N)", whatever its file is called
// in their containers. Processes of another PID namespace are not seen.
func Openers(device string) (names []string) {
	var want unix.Stat_t
	if unix.Stat(device, &want) != nil {
		return nil
	}
	for dir, fd := range descriptors() {
		path := filepath.Join(dir, "fd", fd)
		if to, err := os.Readlink(path); err != nil || !strings.HasPrefix(to, "/dev/") {
			continue // a file of a network's file system may keep stat(2) waiting
		}
		var st unix.Stat_t
		if unix.Stat(path, &st) != nil || st.Mode&unix.S_IFMT != unix.S_IFCHR || st.Rdev != want.Rdev {
			continue
		}
		if name := processName(dir); len(names) < maxHolders && !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return names
}

// descriptors are the descriptors of all processes: a process' folder in /proc, and a number.
func descriptors() iter.Seq2[string, string] {
	return func(yield func(string, string) bool) {
		limit := time.Now().Add(searchTime)
		pids, _ := filepath.Glob("/proc/[0-9]*")
		for _, dir := range pids {
			fds, _ := os.ReadDir(filepath.Join(dir, "fd"))
			for _, fd := range fds {
				if time.Now().After(limit) || !yield(dir, fd.Name()) {
					return
				}
			}
		}
	}
}

// lockedBytes are the bytes that a descriptor has locked: the last word but one of
// "lock:	1: OFDLCK  ADVISORY  WRITE -1 00:1b:77 123 123".
func lockedBytes(info []byte) (all []int64) {
	for s := bufio.NewScanner(bytes.NewReader(info)); s.Scan(); {
		words := strings.Fields(s.Text())
		if len(words) != 9 || words[0] != "lock:" || words[2] != "OFDLCK" {
			continue
		}
		if at, err := strconv.ParseInt(words[7], 10, 64); err == nil {
			all = append(all, at)
		}
	}
	return all
}

// processName is "NAME (pid N)". A process may give itself any name.
func processName(dir string) string {
	comm, _ := os.ReadFile(filepath.Join(dir, "comm"))
	name := strings.Trim(strconv.QuoteToASCII(strings.TrimSpace(string(comm))), `"`)
	return fmt.Sprintf("%s (pid %s)", name, filepath.Base(dir))
}

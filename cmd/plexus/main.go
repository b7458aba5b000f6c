// Command plexus is what the container runtime executes, twice for every pod. It
// links little of the standard library (encoding/json, fmt, net and crypto/rand are
// a quarter of a millisecond), so that it starts fast. It hands the request to the
// node agent where the configuration names one, else it becomes `plexusd cni`, which
// does the same work in a process of its own. Linked under the name of a built-in
// delegate (ovsdpdk, userspace, ...) it is that CNI plugin, alone. VERSION it answers
// itself.
package main

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"unsafe"
)

// supported are the versions of the CNI specification that plexus speaks.
var supported = []string{"0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"}

// CNI's error codes (CNI specification 1.1.0, section 5).
const (
	codeConfig   = "7"
	codeIO       = "5"
	codeTryAgain = "11"
)

// maxStdin bounds the configuration, in bytes; one more is read, so that plexusd
// sees that it is too long.
const maxStdin = 4 << 20

func main() {
	if os.Getenv("CNI_COMMAND") == "VERSION" {
		print(versions())
		return
	}
	as := filepath.Base(os.Args[0])
	if isMetaPlugin(as) && os.Getenv(withinEnv) != "" {
		fail(codeConfig, errors.New("a plugin that plexus executes has executed plexus, as "+as+": plexus cannot be a delegate of itself: name another plugin in its configuration"))
	}
	stdin, err := io.ReadAll(io.LimitReader(os.Stdin, maxStdin+1))
	if err != nil {
		fail(codeIO, errors.New("read standard input: "+err.Error()))
	}
	if socket := agentSocket(string(stdin)); socket != "" && isMetaPlugin(as) { // else a tenant has written it
		answer, err := callAgent(socket, as, stdin)
		if err == nil {
			if answer.stderr != "" {
				os.Stderr.WriteString(answer.stderr)
			}
			print(answer.stdout)
			os.Exit(answer.status)
		}
		if err.silent && os.Getenv("CNI_COMMAND") == "ADD" {
			fail(codeTryAgain, err)
		}
	}
	fail(codeIO, become(as, stdin))
}

// withinEnv is in the environment of each plugin that plexus executes. A configuration
// that comes through such a plugin is a tenant's, and no node's: what flannel, for
// one, delegates to is written in a NAD.
const withinEnv = "PLEXUS_WITHIN"

// isMetaPlugin reports whether plexus was executed to wire all networks of a pod, and
// not as a built-in delegate.
func isMetaPlugin(as string) bool {
	return as == "plexus" || as == "multus" || as == "multus-shim" || strings.HasPrefix(as, "plexus-")
}

func versions() string {
	quoted := make([]string, len(supported))
	for i, v := range supported {
		quoted[i] = quote(v)
	}
	return "{\n    \"cniVersion\": " + quoted[len(quoted)-1] + ",\n    \"supportedVersions\": [" + strings.Join(quoted, ", ") + "]\n}\n"
}

// become replaces this process by plexusd, and as a built-in delegate by plexusbuiltin where
// that is installed. It returns only if it cannot.
func become(as string, stdin []byte) error {
	var path string
	var argv []string
	if !isMetaPlugin(as) {
		path, argv = find("plexusbuiltin"), []string{as}
	}
	if path == "" {
		path, argv = find("plexusd"), []string{"plexusd", "cni", as}
	}
	if path == "" {
		return errors.New("plexusd is neither beside plexus nor in CNI_PATH (" + os.Getenv("CNI_PATH") + "): install it there")
	}
	if err := feed(stdin); err != nil {
		return errors.New("hand standard input on: " + err.Error())
	}
	err := syscall.Exec(path, argv, os.Environ())
	return errors.New("execute " + path + ": " + err.Error())
}

// feed makes what was read from standard input readable there again: from a file
// in memory, as a pipe may not hold all of it without CAP_SYS_RESOURCE
// (fs.pipe-max-size).
func feed(stdin []byte) error {
	number := uintptr(279) // memfd_create, asm-generic/unistd.h
	if runtime.GOARCH == "amd64" {
		number = 319 // arch/x86/entry/syscalls/syscall_64.tbl
	}
	name := []byte("stdin\x00")
	fd, _, errno := syscall.Syscall(number, uintptr(unsafe.Pointer(&name[0])), 0, 0)
	if errno != 0 {
		return errno
	}
	for rest := stdin; len(rest) > 0; {
		n, err := syscall.Write(int(fd), rest)
		if err != nil {
			return err
		}
		rest = rest[n:]
	}
	if _, err := syscall.Seek(int(fd), 0, io.SeekStart); err != nil {
		return err
	}
	if err := syscall.Dup3(int(fd), 0, 0); err != nil {
		return err
	}
	return syscall.Close(int(fd))
}

// find looks for an executable beside this one, then in CNI_PATH; "" when it is not there.
func find(name string) string {
	var dirs []string
	if self, err := os.Executable(); err == nil {
		dirs = append(dirs, filepath.Dir(self))
	}
	dirs = append(dirs, filepath.SplitList(os.Getenv("CNI_PATH"))...)
	for _, dir := range dirs {
		path := filepath.Join(dir, name)
		if st, err := os.Stat(path); err == nil && st.Mode().IsRegular() && st.Mode()&0o111 != 0 {
			return path
		}
	}
	return ""
}

// fail answers with an error and ends.
func fail(code string, err error) {
	print("{\n    \"code\": " + code + ",\n    \"msg\": " + quote(err.Error()) + "\n}\n")
	os.Exit(1)
}

func print(text string) {
	if _, err := os.Stdout.WriteString(text); err != nil {
		os.Stderr.WriteString("plexus: write answer: " + err.Error() + "\n")
		os.Exit(1)
	}
}

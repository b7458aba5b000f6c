package shareddir

import (
	"log/slog"
	"os"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

const swaps = 3000 // rounds of ADD and DEL under a renamer

// A pod that swaps a folder for a link, and back, all the time: the folder itself, the
// one above it, or names in it. Whatever plexus sees, the link leads it nowhere.
func TestSwappedForLink(t *testing.T) {
	for _, c := range []struct{ name, swapped, link string }{
		{"the folder", "/above/volume", "/victim"},
		{"the folder above", "/above", "/elsewhere"},
	} {
		for _, own := range []bool{false, true} {
			if own && c.name != "the folder" {
				continue // the base is the node's, and may be a link
			}
			t.Run(c.name, func(t *testing.T) {
				dir := tempDir(t)
				folder := dir + "/above/volume"
				swapped, link := dir+c.swapped, dir+"/link"
				if own {
					folder = dir + "/above/" + ownName
					swapped = folder
				}
				for _, host := range []string{dir + "/victim", dir + "/elsewhere/volume"} {
					for _, file := range []string{"file", ConfigFile(sandbox, "net1"), "tree/file"} {
						write(t, host+"/"+file)
					}
					socketAt(t, host+"/sock")
				}
				watched(t, dir+"/victim")
				watched(t, dir+"/elsewhere")
				must(t, os.MkdirAll(folder, 0o755))
				must(t, os.Symlink(dir+c.link, link))
				socketAt(t, dir+"/origin")
				origin, err := OpenSocket(dir, "origin")
				must(t, err)
				defer origin.Close()
				stop := make(chan bool)
				var renamer sync.WaitGroup
				renamer.Go(func() {
					for {
						select {
						case <-stop:
							return
						default:
							_ = unix.Renameat2(unix.AT_FDCWD, swapped, unix.AT_FDCWD, link, unix.RENAME_EXCHANGE)
							_ = os.Mkdir(folder, 0o755)
						}
					}
				})
				group, _ := anyGroup(t)
				done, refused := 0, 0
				for i := range swaps {
					w, pod := wish(dir+"/above"), podWith(folder)
					if own {
						pod, w.Group = nil, group
					}
					u, err := choose(w, pod)
					if err == nil {
						err = u.Make()
					}
					if err == nil {
						err = u.WriteFile(u.Config, []byte("{}"))
					}
					if err == nil {
						err = u.LinkSocket(origin, "sock", "file")
					}
					if err == nil {
						done++
					} else {
						refused++
					}
					u = Use{Folder: Folder{Dir: folder, Own: own, Made: true, GID: -1}, File: "sock", Config: u.Config}
					if err := u.Clear(Clearing{Log: slog.New(slog.DiscardHandler), Recorded: i%2 == 0}); err != nil {
						t.Errorf("round %d: %v", i, err)
					}
				}
				close(stop)
				renamer.Wait()
				t.Logf("own folder: %v: %d rounds, %d attached, %d refused", own, swaps, done, refused)
			})
		}
	}
}

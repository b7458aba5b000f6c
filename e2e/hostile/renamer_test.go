package hostile

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/plexus-cni/plexus/rig/must"
	"github.com/plexus-cni/plexus/rig/site"
)

// A tenant swaps its volume, or a folder above it, for a link to the node's folders and
// back, as fast as it can, while its pods come and go.
func TestHostileRenamer(t *testing.T) {
	v := site.OVS(t)
	s, h := site.NewVhostSwept(t, v), newHostTree(t)
	p := site.NewPod(t, "renamed")
	tries := 0
	codes := map[uint]int{}
	for _, c := range []struct{ swapped, link string }{{"above/volume", "kubelet"}, {"above", "elsewhere"}} {
		top, err := os.MkdirTemp("/var/lib", "top") // where no pattern of the site leads
		must.Do(t, err)
		t.Cleanup(func() { _ = os.RemoveAll(top) })
		volume, link := filepath.Join(top, "above", "volume"), filepath.Join(top, "link")
		must.Do(t, os.MkdirAll(volume, 0o755))
		must.Do(t, os.Symlink(filepath.Join(h.dir, c.link), link))
		s.PodWithVolume("renamed", "fast", volume)
		stop := make(chan struct{})
		var renamer sync.WaitGroup
		swaps := 0
		renamer.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					_ = unix.Renameat2(unix.AT_FDCWD, filepath.Join(top, c.swapped), unix.AT_FDCWD, link, unix.RENAME_EXCHANGE)
					swaps++
				}
			}
		})
		var sandboxes []string
		end := time.Now().Add(time.Duration(triesOf(0, 30)) * time.Second) // of 60 s in all
		for i := 0; i < 4 || time.Now().Before(end); i++ {
			sandbox := site.SandboxID(70000 + tries)
			tries++
			sandboxes = append(sandboxes, sandbox)
			_, err := s.Add(sandbox, p, "renamed")
			var answer *site.Error
			if errors.As(err, &answer) {
				codes[answer.Code]++
			} else if err != nil {
				t.Error(err)
			}
			_ = s.Del(sandbox, p, "renamed")
			h.untouched(t, fmt.Sprintf("%s swapped, try %d", c.swapped, i))
		}
		close(stop)
		renamer.Wait()
		for _, sandbox := range sandboxes {
			s.MustDel(sandbox, p, "renamed")
		}
		t.Logf("%s: %d swaps", c.swapped, swaps)
	}
	h.same(t)
	t.Logf("%d pods under the renamer; refused, by code: %v", tries, codes)
}

package engine

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"testing"

	"github.com/plexus-cni/plexus/conf"
	"github.com/plexus-cni/plexus/delegates"
	"github.com/plexus-cni/plexus/journal"
)

// given are the devices that a pod has been given, by resource; nil: nobody knows.
type given map[string][]string

// OfPod is Devices.
func (g given) OfPod(context.Context, *conf.Pod) (map[string][]string, error) {
	if g == nil {
		return nil, errors.New("the kubelet does not answer")
	}
	return g, nil
}

// Networks with a resource get a device of it each, by ADD and while the pod runs.
func TestDevices(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	builtinCluster(n)
	n.api.resource = "example.com/port"
	n.Devices = given(nil)
	_, err := n.Add(t.Context(), n.request("static"))
	says(t, err, "the kubelet does not answer")
	var coded *delegates.Error
	if !errors.As(err, &coded) || coded.Code != delegates.CodeTryAgain {
		t.Errorf("%v: want code 11", err)
	}
	n.Devices = given{"example.com/port": {"one", "two"}}
	_, err = n.Add(t.Context(), n.request("static,bare,other"))
	says(t, err, "example.com/port")
	n.mustAdd("static")
	n.mustUpdate("static,bare", "attached net2 (default/bare)")
	rec, err := n.Journal.Read(sandboxOfPod)
	if err != nil {
		t.Fatal(err)
	}
	for at, device := range []string{"", "one", "two"} {
		if entry := rec.Transactions[0].Attachments[at]; entry.DeviceID != device {
			t.Errorf("%s has device %q, want %q", entry.IfName, entry.DeviceID, device)
		}
	}
}

// full is a disk on which nothing can be synced.
type full struct{ *cutDisk }

// SyncFolder is journal.FileSystem.
func (f full) SyncFolder(dir string) error {
	if len(f.now.names) > 0 {
		return errors.New("no space is left")
	}
	return f.cutDisk.SyncFolder(dir)
}

// The record does not come to the disk: ADD fails before anything is attached whose undoing
// needs the record.
func TestARecordThatDoesNotReachTheDisk(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	disk := &cutDisk{now: &diskState{map[string]bool{n.dir: true}, map[string]int{}, map[int][]byte{}}}
	n.Journal = withLocks(journal.OpenOn(n.dir, full{disk}))
	n.Log = slog.New(slog.DiscardHandler)
	_, err := n.Add(t.Context(), n.request("static,between"))
	says(t, err, "write journal: no space is left")
	if _, err := disk.ReadFile(n.Journal.File(sandboxOfPod)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the record is there: %v", err)
	}
	compareLines(t, "attached and detached", n.world.Calls(), nil)
	n.wantNothingLeft("after ADD")
}

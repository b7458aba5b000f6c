package engine

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containernetworking/cni/pkg/types"
	"golang.org/x/sys/unix"

	"github.com/plexus-cni/plexus/conf"
	"github.com/plexus-cni/plexus/delegates"
	"github.com/plexus-cni/plexus/journal"
)

// house is an engine with a cluster network and networks of a delegate that does nothing,
// with addresses of host-local and of an executable.
type house struct {
	*Engine
	t    *testing.T
	dir  string
	conf *conf.Conf
	log  *bytes.Buffer // of the engine
	m    *marking
}

func newHouse(t *testing.T) *house {
	dir := t.TempDir()
	script(t, dir, "cluster", `cat > /dev/null; echo "$CNI_COMMAND $CNI_CONTAINERID" >> `+dir+`/calls; echo '{"cniVersion": "1.1.0", "interfaces": [{"name": "eth0"}]}'`)
	script(t, dir, "foreign", `in=$(cat); echo "$CNI_COMMAND $CNI_CONTAINERID $CNI_IFNAME" >> `+dir+`/foreign-calls; [ $CNI_COMMAND != GC ] || echo "$in" > `+dir+`/foreign-gc; echo '{"cniVersion": "1.1.0", "ips": [{"address": "192.0.2.7/24"}]}'`)
	text := fmt.Sprintf(`{"cniVersion": "1.1.0", "name": "node", "type": "plexus", "dataDir": %q, "delegates": [
		{"cniVersion": "1.1.0", "name": "cluster", "type": "cluster"},
		{"cniVersion": "1.1.0", "name": "one", "type": "marking", "ipam": {"type": "host-local", "dataDir": %q, "subnet": "10.9.0.0/24"}},
		{"cniVersion": "1.1.0", "name": "two", "type": "marking", "ipam": {"type": "foreign"}}]}`, dir, filepath.Join(dir, "ipam"))
	c, err := conf.Parse([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	h := &house{t: t, dir: dir, conf: c, log: &bytes.Buffer{}, m: &marking{disk: &cutDisk{}, begun: map[string]bool{}}}
	h.Engine = &Engine{
		Delegates: map[string]delegates.Delegate{"marking": h.m}, Source: silent{}, Log: slog.New(slog.NewTextHandler(h.log, nil)),
		Journal: openJournal(dir), Stderr: t.Output(),
	}
	return h
}

func (h *house) request(sandbox string) *Request {
	return &Request{Conf: h.conf, Network: "node", Sandbox: sandbox, Netns: "/proc/self/ns/net", IfName: "eth0", Path: []string{h.dir}}
}

func (h *house) mustAdd(sandbox string) {
	h.t.Helper()
	if _, err := h.Add(h.t.Context(), h.request(sandbox)); err != nil {
		h.t.Fatal(err)
	}
}

// change rewrites the journal file of a sandbox. It is told where Commit has begun.
func (h *house) change(sandbox string, how func(data []byte, committed int) []byte) {
	h.t.Helper()
	file := h.Journal.File(sandbox)
	data, err := os.ReadFile(file)
	if err == nil {
		err = os.WriteFile(file, how(data, bytes.LastIndex(data, []byte(`{"plexusJournal":`))), 0o600)
	}
	if err != nil {
		h.t.Fatal(err)
	}
}

func (h *house) tear(sandbox string) {
	h.change(sandbox, func(data []byte, committed int) []byte { return data[:(committed+len(data))/2] })
}

func (h *house) spoil(sandbox string) {
	h.change(sandbox, func([]byte, int) []byte { return nil })
}

// addresses are the owners of the addresses of network one.
func (h *house) addresses() string {
	h.t.Helper()
	files, err := filepath.Glob(filepath.Join(h.dir, "ipam", "one", "10.*"))
	if err != nil {
		h.t.Fatal(err)
	}
	var owners []string
	for _, file := range files {
		owner, _, _ := strings.Cut(h.read(file), "\r\n")
		owners = append(owners, owner)
	}
	slices.Sort(owners)
	return strings.Join(owners, " ")
}

func (h *house) read(file string) string {
	h.t.Helper()
	data, err := os.ReadFile(file)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		h.t.Fatal(err)
	}
	return string(data)
}

func (h *house) cached() []string {
	h.t.Helper()
	files, err := os.ReadDir(filepath.Join(h.dir, "results"))
	if err != nil {
		h.t.Fatal(err)
	}
	var names []string
	for _, f := range files {
		names = append(names, f.Name())
	}
	return names
}

func (h *house) loseCache() {
	h.t.Helper()
	if err := errors.Join(os.RemoveAll(filepath.Join(h.dir, "results")), os.Mkdir(filepath.Join(h.dir, "results"), 0o700)); err != nil {
		h.t.Fatal(err)
	}
}

func (h *house) says(err error, parts ...string) {
	h.t.Helper()
	for _, part := range parts {
		if err == nil || !strings.Contains(err.Error(), part) {
			h.t.Errorf("%v: want %q", err, part)
		}
	}
}

// Commit was torn: ADD and CHECK refuse and name DEL, the agent undoes nothing of a pod
// that lives, and DEL undoes all of it without libcni's cache.
func TestDamageBehindTheRecord(t *testing.T) {
	h := newHouse(t)
	h.mustAdd("a")
	h.tear("a")
	h.loseCache()
	file := h.Journal.File("a")
	before := h.read(file)
	_, err := h.Add(t.Context(), h.request("a"))
	h.says(err, file, "DEL")
	h.says(h.Check(t.Context(), h.request("a")), file, "DEL")
	found, err := h.Reconcile(t.Context(), "a", nil)
	if err != nil || len(found) != 1 || found[0].Kind != KindDamaged || !strings.Contains(found[0].What, file) {
		t.Errorf("%+v, %v", found, err)
	}
	if len(h.m.begun) != 2 || h.addresses() != "a" || h.read(file) != before {
		t.Errorf("Reconcile has undone: %v, %s", h.m.begun, h.addresses())
	}
	if err := h.Del(t.Context(), h.request("a")); err != nil {
		t.Fatal(err)
	}
	if len(h.m.begun) != 0 || h.addresses() != "" || h.read(file) != "" {
		t.Errorf("left: %v, %s", h.m.begun, h.addresses())
	}
	if calls := h.read(filepath.Join(h.dir, "foreign-calls")); !strings.Contains(calls, "DEL a net2") {
		t.Errorf("the executable of addresses: %s", calls)
	}
	if kept, err := h.Journal.Damaged(); err != nil || len(kept) != 0 {
		t.Error(kept, err)
	}
}

// The namespace is gone: what was cut short is undone.
func TestDamageOfADeadPodIsUndone(t *testing.T) {
	h := newHouse(t)
	h.mustAdd("a")
	h.change("a", func(data []byte, committed int) []byte {
		rec, why := journal.Decode("a", data[:committed])
		if why != "" {
			t.Fatal(why)
		}
		rec.Transactions[0].NetnsID = "0:0"
		first, err := journal.Encode(rec)
		if err != nil {
			t.Fatal(err)
		}
		return append(first, data[committed:len(data)-9]...)
	})
	found, err := h.Reconcile(t.Context(), "a", nil)
	if err != nil || len(found) != 1 || found[0].Kind != KindUnfinished {
		t.Errorf("%+v, %v", found, err)
	}
	if len(h.m.begun) != 0 || h.addresses() != "" {
		t.Errorf("left: %v, %s", h.m.begun, h.addresses())
	}
}

// Nothing in the file is whole, and libcni's cache is lost too: DEL does what it can, keeps
// the file, fails once, and says what cannot be known.
func TestDelOfNothingButADamagedFile(t *testing.T) {
	h := newHouse(t)
	h.mustAdd("other")
	h.mustAdd("a")
	h.change("a", func(data []byte, committed int) []byte { return data[:committed/2] })
	file := h.Journal.File("a")
	h.loseCache()
	err := h.Del(t.Context(), h.request("a"))
	var coded *delegates.Error
	if !errors.As(err, &coded) || coded.Code != 11 {
		t.Errorf("%v: want code 11", err)
	}
	kept, errKept := h.Journal.Damaged()
	if errKept != nil || len(kept) != 1 {
		t.Fatal(kept, errKept)
	}
	h.says(err, file, "checksum", kept[0], "eth0 (cluster)", "cannot be known", "The next DEL succeeds")
	if h.addresses() != "other" {
		t.Errorf("addresses of %s", h.addresses())
	}
	if err := h.Del(t.Context(), h.request("a")); err != nil {
		t.Errorf("the next DEL: %v", err)
	}
	h.mustAdd("a")
}

// GC goes on beside a damaged file, says so, keeps everything of its sandbox, and
// undoes the rest.
func TestGCBesideADamagedFile(t *testing.T) {
	h := newHouse(t)
	for _, sandbox := range []string{"damaged", "gone", "runs", "torn"} {
		h.mustAdd(sandbox)
	}
	h.spoil("damaged")
	h.tear("torn")
	gc := func() {
		t.Helper()
		if err := h.GC(t.Context(), h.request(""), []types.GCAttachment{{ContainerID: "runs", IfName: "eth0"}, {ContainerID: "torn", IfName: "eth0"}}); err != nil {
			t.Fatal(err)
		}
	}
	gc()
	if got := h.addresses(); got != "damaged runs torn" {
		t.Errorf("addresses of %s", got)
	}
	if log := h.log.String(); !strings.Contains(log, h.Journal.File("damaged")) {
		t.Errorf("GC does not say it: %s", log)
	}
	given := h.read(filepath.Join(h.dir, "foreign-gc"))
	for _, sandbox := range []string{"damaged", "runs", "torn"} {
		if !strings.Contains(given, fmt.Sprintf(`{"containerID":%q,"ifname":"net2"}`, sandbox)) {
			t.Errorf("the executable of addresses is not told of %s: %s", sandbox, given)
		}
	}
	if strings.Contains(given, "gone") {
		t.Error(given)
	}
	// Without the cache nobody knows what the damaged one has of the executables' networks.
	h.loseCache()
	if err := os.Remove(filepath.Join(h.dir, "foreign-gc")); err != nil {
		t.Fatal(err)
	}
	gc()
	if given := h.read(filepath.Join(h.dir, "foreign-gc")); given != "" || h.addresses() != "damaged runs torn" {
		t.Errorf("executables are asked: %s, addresses of %s", given, h.addresses())
	}
}

// What libcni's cache alone knows is undone by the cached configuration, and its files go,
// those that are cut too. What the runtime or the journal knows stays.
func TestGCOfLibcnisCache(t *testing.T) {
	h := newHouse(t)
	for _, sandbox := range []string{"lost", "runs", "recorded"} {
		h.mustAdd(sandbox)
	}
	for _, sandbox := range []string{"lost", "runs"} {
		if err := os.Remove(h.Journal.File(sandbox)); err != nil {
			t.Fatal(err)
		}
	}
	for name, text := range map[string]string{"one-dead-net1": "", "two-runs-net5": "{", "x-dead-eth0": "\x00\x00", "not-ours": `{"cniVersion": "0.2.0"}`} {
		if err := os.WriteFile(filepath.Join(h.dir, "results", name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	other := h.request("recorded")
	other.Network = "another" // whose attachments this GC is not about
	rec, err := h.Journal.Read("recorded")
	if err != nil {
		t.Fatal(err)
	}
	rec.Transactions[0].Network = other.Network
	if err := h.Journal.Write(t.Context(), rec); err != nil {
		t.Fatal(err)
	}
	if err := h.GC(t.Context(), h.request(""), []types.GCAttachment{{ContainerID: "runs", IfName: "eth0"}}); err != nil {
		t.Fatal(err)
	}
	want := []string{
		"cluster-recorded-eth0", "cluster-runs-eth0", "not-ours", "one-recorded-net1", "one-runs-net1",
		"two-recorded-net2", "two-runs-net2", "two-runs-net5",
	}
	if got := h.cached(); !slices.Equal(got, want) {
		t.Errorf("left in the cache: %q", got)
	}
	if got := h.addresses(); got != "recorded runs" {
		t.Errorf("addresses of %s", got)
	}
	if calls := h.read(filepath.Join(h.dir, "calls")); !strings.Contains(calls, "DEL lost") || strings.Contains(calls, "DEL r") {
		t.Errorf("the cluster network: %s", calls)
	}
	if calls := h.read(filepath.Join(h.dir, "foreign-calls")); !strings.Contains(calls, "DEL lost net2") || strings.Contains(calls, "DEL r") {
		t.Errorf("addresses by an executable: %s", calls)
	}
}

// A built-in that is executed under its own name is told of one network's attachments: GC
// leaves what others have.
func TestGCOfOneNetwork(t *testing.T) {
	h := newHouse(t)
	h.mustAdd("a")
	if err := os.Remove(h.Journal.File("a")); err != nil {
		t.Fatal(err)
	}
	before := h.cached()
	two := `{"cniVersion": "1.1.0", "name": "two", "type": "marking", "ipam": {"type": "foreign"}}`
	if err := h.GC(t.Context(), &Request{Network: "two", Stdin: []byte(two), Path: []string{h.dir}}, nil); err != nil {
		t.Fatal(err)
	}
	after := slices.DeleteFunc(before, func(name string) bool { return strings.HasPrefix(name, "two-") })
	if got := h.cached(); !slices.Equal(got, after) || h.addresses() != "a" {
		t.Errorf("left in the cache: %q, addresses of %s", got, h.addresses())
	}
}

// DEL is no success while libcni's file of a result cannot be removed: it would stay for
// ever.
func TestDelOfACachedResultThatStays(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED: only root mounts a file over itself, so that it cannot be removed")
	}
	h := newHouse(t)
	h.mustAdd("a")
	busy := filepath.Join(h.dir, "results", h.cached()[0])
	if err := unix.Mount(busy, busy, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	err := h.Del(t.Context(), h.request("a"))
	if err := unix.Unmount(busy, unix.MNT_DETACH); err != nil {
		t.Fatal(err)
	}
	h.says(err, busy)
	if err := h.Del(t.Context(), h.request("a")); err != nil {
		t.Error(err)
	}
	if left := h.cached(); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

package node

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func has(sandboxes ...string) func(context.Context) ([]string, error) {
	return func(context.Context) ([]string, error) { return sandboxes, nil }
}

func (r *rig) installed() *rig {
	r.t.Helper()
	r.withAccount()
	r.install(image("1"))
	r.put("10-calico.conflist", calico)
	if _, err := r.Credentials(r.t.Context()); err != nil {
		r.t.Fatal(err)
	}
	r.configure()
	return r
}

// After a removal the node is as it was.
func TestRemove(t *testing.T) {
	r := newRig(t).installed()
	done, err := r.Remove(t.Context(), has())
	if err != nil || len(done.Executables) != 8 || done.Kept != "" || r.in(done.Next) != "10-calico.conflist" || len(done.Configurations) != 1 {
		t.Errorf("%+v, %v", done, err)
	}
	if got := r.names(r.ConfDir); got != "10-calico.conflist" {
		t.Errorf("left are %s", got)
	}
	if got := r.names(r.BinDir); got != "" {
		t.Errorf("left are %s", got)
	}
	if done, err = r.Remove(t.Context(), has()); err != nil || len(done.Executables) != 0 || len(done.Configurations) != 0 {
		t.Errorf("again: %+v, %v", done, err)
	}
}

func TestRemoveKeepsExecutables(t *testing.T) {
	for _, c := range []struct {
		name     string
		prepare  func(r *rig)
		attached func(context.Context) ([]string, error)
		kept     string
		err      string
	}{
		{"sandboxes", nil, has("a", "b"), "2 sandboxes still have attachments: delete their pods, then undo what `plexusctl show --data-dir DATADIR` still lists, each with `plexusctl del POD --sandbox SANDBOX --data-dir DATADIR`", ""},
		{"a journal that cannot be read", nil, func(context.Context) ([]string, error) { return nil, errors.New("input/output error") }, "it is not known", "look for attachments that are left: input/output error"},
		{"by hand", func(r *rig) { r.put("00-plexus.conf", migrated) }, has(), "00-plexus.conf is a configuration of plexus", ""},
		{"a canary", func(r *rig) { r.put("50-canary.conf", canary) }, has(), "50-canary.conf is a configuration of plexus", ""},
		{"in a list", func(r *rig) { r.put("50-x.conflist", `{"name": "x", "plugins": [`+canary+`]}`) }, has(), "50-x.conflist is a configuration of plexus", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t).installed()
			if c.prepare != nil {
				c.prepare(r)
			}
			done, err := r.Remove(t.Context(), c.attached)
			if (err != nil) != (c.err != "") || err != nil && !strings.Contains(err.Error(), c.err) {
				t.Errorf("error %v, want %q", err, c.err)
			}
			if !strings.Contains(strings.ReplaceAll(done.Kept, r.DataDir, "DATADIR"), c.kept) || r.names(r.BinDir) != everyExecutable {
				t.Errorf("%+v, left are %s", done, r.names(r.BinDir))
			}
			if strings.Contains(r.names(r.ConfDir), "00-plexus.conflist") || strings.Contains(r.names(r.ConfDir), "plexus.d") {
				t.Errorf("left are %s", r.names(r.ConfDir))
			}
		})
	}
}

// What is somebody else's stays, whatever is called how.
func TestRemoveOfOthers(t *testing.T) {
	r := newRig(t).installed()
	r.put("plexus.d/mine", "mine")
	sriov := filepath.Join(r.BinDir, "sriov")
	for _, do := range []error{
		os.Remove(sriov), os.WriteFile(sriov, []byte("sriov-cni"), 0o755),
		os.WriteFile(filepath.Join(r.ConfDir, "0-plexus.conflist"), []byte(flannel), 0o600),
	} {
		if do != nil {
			t.Fatal(do)
		}
	}
	done, err := r.Remove(t.Context(), has())
	if err != nil || r.in(done.Next) != "0-plexus.conflist" {
		t.Errorf("%+v, %v", done, err)
	}
	if got := r.names(r.BinDir); got != "sriov" {
		t.Errorf("left are %s", got)
	}
	if got := r.names(r.ConfDir); got != "0-plexus.conflist 10-calico.conflist plexus.d" || r.names(r.CredDir) != "mine" {
		t.Errorf("left are %s, %s", got, r.names(r.CredDir))
	}
}

// What a killed installer has left goes too; a node that never had plexus is no
// error.
func TestRemoveLeftovers(t *testing.T) {
	r := newRig(t).installed()
	for _, dir := range []string{r.BinDir, r.ConfDir, r.CredDir} {
		if err := os.WriteFile(filepath.Join(dir, tempPrefix+"1"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := r.Remove(t.Context(), has()); err != nil {
		t.Error(err)
	}
	if got := r.names(r.BinDir) + r.names(r.ConfDir); got != "10-calico.conflist" {
		t.Errorf("left are %s", got)
	}
	n := &Node{Paths: pathsIn(t.TempDir()), Log: r.Log}
	if done, err := n.Remove(t.Context(), has()); err != nil || done.Next != "" {
		t.Errorf("%+v, %v", done, err)
	}
}

func TestRemoveErrors(t *testing.T) {
	r := newRig(t).installed()
	plexusd := filepath.Join(r.BinDir, "plexusd")
	for _, do := range []error{os.Remove(plexusd), os.Mkdir(plexusd, 0o755), os.WriteFile(filepath.Join(plexusd, "x"), nil, 0o600)} {
		if do != nil {
			t.Fatal(do)
		}
	}
	done, err := r.Remove(t.Context(), has())
	if err == nil || !strings.Contains(err.Error(), "remove executable") || len(done.Executables) != 7 {
		t.Errorf("%+v, %v", done, err)
	}
}

func TestRemoved(t *testing.T) {
	failed := errors.New("it says so")
	for _, c := range []struct {
		code     int
		deleting bool
		err      error
		want     bool
		why      string
	}{
		{404, false, failed, true, "does not exist"},
		{401, false, failed, true, "are gone (status 401)"},
		{403, false, failed, true, "are gone (status 403)"},
		{404, false, nil, true, "does not exist"},
		{200, true, nil, true, "is being deleted"},
		{200, false, nil, false, "exists"},
		{200, false, failed, false, "as it should: it says so"},
		{500, false, failed, false, "as it should: it says so"},
		{429, false, nil, false, "status 429"},
		{302, true, nil, false, "status 302"},
		{0, false, failed, false, "as it should: it says so"},
	} {
		got, why := Removed(t.Context(), func(context.Context) (int, bool, error) { return c.code, c.deleting, c.err })
		if got != c.want || !strings.Contains(why, c.why) {
			t.Errorf("%d %v %v: %v, %s", c.code, c.deleting, c.err, got, why)
		}
	}
}

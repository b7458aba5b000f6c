package shareddir

import (
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/plexus-cni/plexus/conf"
	"github.com/plexus-cni/plexus/delegates"
)

func TestOwnName(t *testing.T) {
	for _, id := range []string{
		sandbox, sandbox[:24], sandbox[:23], strings.ToUpper(sandbox), "kubelet", "cnitool-7738aaaaaaaa",
		"../../../../../../../../../../etc", strings.Repeat("/", 24), "0123456789abcdef0123456\n", "",
	} {
		got := OwnName(id)
		if !ownForm.MatchString(got) || len(got) != 24 {
			t.Errorf("OwnName(%q) is %q, want 24 lower-case hexadecimal digits", id, got)
		}
		if (got == ownName) != strings.HasPrefix(id, ownName) {
			t.Errorf("OwnName(%q) is %q", id, got)
		}
		if mark := id[:min(MarkedID, len(id))]; OwnName(mark) != got {
			t.Errorf("OwnName(%q) is %q, not what the whole container ID gives", mark, OwnName(mark))
		}
	}
	if OwnName("cnitool-7738aaaaaaaa") == OwnName("cnitool-7738bbbbbbbb") {
		t.Error("two container IDs of another form have the same folder")
	}
}

func TestChoose(t *testing.T) {
	dir := tempDir(t)
	group, gid := anyGroup(t)
	with := func(group, permissions string) Options {
		w := wish(dir)
		w.Group, w.Permissions = group, permissions
		return w
	}
	for _, c := range []struct {
		name string
		wish Options
		pod  *conf.Pod
		want Folder
	}{
		{"the sandbox's own", wish(dir), nil, Folder{Dir: dir + "/" + ownName, Own: true, GID: -1, Perm: 0o750}},
		{"with a group", with(group, ""), nil, Folder{Dir: dir + "/" + ownName, Own: true, GID: gid, Perm: 0o770 | fs.ModeSetgid}},
		{"with permissions", with(group, "0711"), nil, Folder{Dir: dir + "/" + ownName, Own: true, GID: gid, Perm: 0o711 | fs.ModeSetgid}},
		{"the pod's volume, missing", wish(dir), podWith(dir + "/volume/"), Folder{Dir: dir + "/volume", Made: true, GID: -1, Perm: 0o750}},
		{"with a group's number", with(strconv.Itoa(gid), ""), nil, Folder{Dir: dir + "/" + ownName, Own: true, GID: gid, Perm: 0o770 | fs.ModeSetgid}},
		{"with a number that has no name", with("4711", "2750"), nil, Folder{Dir: dir + "/" + ownName, Own: true, GID: 4711, Perm: 0o750 | fs.ModeSetgid}},
		{"with the setgid bit", with("", "2770"), nil, Folder{Dir: dir + "/" + ownName, Own: true, GID: -1, Perm: 0o770 | fs.ModeSetgid}},
		{"a missing one with a group", with(group, ""), podWith(dir + "/volume/"), Folder{Dir: dir + "/volume", Made: true, GID: gid, Perm: 0o770 | fs.ModeSetgid}},
		{"the pod's volume", wish("/none"), podWith(dir), Folder{Dir: dir, GID: -1, Perm: 0o750}},
		{"another volume alone", wish(dir), &conf.Pod{Volumes: []conf.Volume{{Name: "data", HostPath: "/x"}}}, Folder{Dir: dir + "/" + ownName, Own: true, GID: -1, Perm: 0o750}},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := choose(c.wish, c.pod)
			if err != nil || got.Folder != c.want {
				t.Errorf("%+v, want %+v (%v)", got.Folder, c.want, err)
			}
			if got.Path("sock") != got.Dir+"/sock" || !got.Valid(sandbox, unique) {
				t.Errorf("socket at %s, valid: %v", got.Path("sock"), got.Valid(sandbox, unique))
			}
		})
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) > 0 {
		t.Errorf("Choose has made %v (%v)", entries, err)
	}
}

func TestChooseRefuses(t *testing.T) {
	dir := tempDir(t)
	w := wish(dir)
	w.Group = "no-such-group"
	_, err := choose(w, nil)
	wantError(t, err, `"vhost.group"`, "no-such-group")
	for _, path := range []string{"/", "relative", "/..", "//", "/a\x00b"} {
		_, err := choose(wish(dir), podWith(path))
		wantError(t, err, "default/p", conf.SharedDir, "absolute path below /")
	}
	w.Group = "4711" // of which the folder is not, whoever runs this test
	_, err = choose(w, podWith(dir))
	wantError(t, err, "default/p", conf.SharedDir, `"vhost.group"`, dir, "emptyDir")
	w = wish(dir)
	w.Permissions = "0700"
	_, err = choose(w, podWith(dir))
	wantError(t, err, "default/p", conf.SharedDir, `"vhost.permissions"`, dir, "emptyDir")
	_, err = choose(wish(dir), podWith(dir+"/missing/volume"))
	wantError(t, err, "default/p", dir+"/missing", "DirectoryOrCreate")
	for _, permissions := range []string{"0888", "rwx", "-7", "01777", "4770", "7777777777777777777777777"} {
		w := wish(dir)
		w.Permissions = permissions
		_, err := choose(w, nil)
		wantError(t, err, `"vhost.permissions"`, "want octal digits up to 0777, or 2777")
	}
	long := strings.Repeat("n", MaxSocketPath-len(ShortLinks))
	_, err = Choose(wish(dir), &delegates.Attachment{Sandbox: sandbox, IfName: "net1"}, long, unique)
	wantError(t, err, ShortLinks, "at most 107 are allowed", `shorten "vhost.file"`)
}

// What stands at the folder's place, or above it, and is no folder is refused, and
// the error names it.
func TestChooseFollowsNoLink(t *testing.T) {
	dir, host := tempDir(t), victim(t)
	write(t, dir+"/file")
	must(t, os.Symlink(host, dir+"/link"))
	must(t, os.Symlink("/proc/self/cwd", dir+"/magic"))
	must(t, os.Symlink(dir+"/nowhere", dir+"/dangling"))
	for path, is := range map[string]string{
		"file": "no folder", "link": "symbolic link", "dangling": "symbolic link", "magic": "symbolic link",
		"link/empty": "symbolic link", "link/new": "symbolic link", "file/x": "no folder", "dangling/x": "symbolic link",
	} {
		_, err := choose(wish(dir), podWith(dir+"/"+path))
		place, _, _ := strings.Cut(path, "/")
		wantError(t, err, "default/p", conf.SharedDir, dir+"/"+place+" is ", is, "emptyDir")
	}
	_, err := choose(wish(dir), podWith("/proc/self/root/etc"))
	wantError(t, err, "/proc/self is a symbolic link")
	must(t, os.Symlink(host, dir+"/"+ownName))
	_, err = choose(wish(dir), nil)
	wantError(t, err, dir+"/"+ownName, "symbolic link")
}

// The links of the node itself are followed: that of a base, and one in / or /var.
func TestNodesLinksAreFollowed(t *testing.T) {
	dir := tempDir(t)
	must(t, os.Mkdir(dir+"/base", 0o755))
	must(t, os.Symlink("base", dir+"/link"))
	u, err := choose(wish(dir+"/link"), nil)
	must(t, err)
	must(t, u.Make())
	if !exists(dir + "/base/" + ownName) {
		t.Error("the own folder is not below the base")
	}
	clear(t, &u, true)
	if exists(dir + "/base/" + ownName) {
		t.Error("the own folder is left")
	}
	if at, err := os.Readlink("/var/run"); err == nil && strings.Trim(at, "/") == "run" && os.Getuid() == 0 {
		volume, err := os.MkdirTemp("/run", "sd")
		must(t, err)
		t.Cleanup(func() { must(t, os.RemoveAll(volume)) })
		u, err := choose(wish(dir), podWith("/var"+volume))
		must(t, err)
		must(t, u.Make())
		must(t, u.WriteFile(u.Config, nil))
		if !exists(volume + "/" + u.Config) {
			t.Error("a hostPath below /var/run does not lead below /run")
		}
	}
}

func TestNodePlaces(t *testing.T) {
	for path, want := range map[string]string{
		"/run/x/y":                     "/run",
		"/foo":                         "/foo",
		"/var/run/x":                   "/var/run /var",
		"/var":                         "/var",
		"/var/lib/kubelet/pods/u":      "/var/lib/kubelet /var/lib /var",
		"/var/lib/kubelet":             "/var/lib/kubelet /var/lib /var",
		"/var/lib/kubelets/x":          "/var/lib /var",
		"/srv/var/lib/kubelet/volumes": "/srv",
	} {
		if got := strings.Join(nodePlaces(path), " "); got != want {
			t.Errorf("nodePlaces(%s): %s, want %s", path, got, want)
		}
	}
}

// A folder of the sandbox's own that holds other things is not taken: it would be
// removed one day.
func TestForeignContentRefused(t *testing.T) {
	dir := tempDir(t)
	own := dir + "/" + ownName
	write(t, own+"/configData-0123456789ab-net1.json")
	socketAt(t, own+"/left-by-a-crash")
	_, err := choose(wish(dir), nil)
	must(t, err)
	for _, foreign := range []string{"notes.txt", "folder/file"} {
		write(t, own+"/"+foreign)
		top, _, _ := strings.Cut(foreign, "/")
		_, err := choose(wish(dir), nil)
		wantError(t, err, own, top, "socketDir")
		must(t, os.RemoveAll(own+"/"+top))
	}
	must(t, os.Symlink("/etc/passwd", own+"/link"))
	_, err = choose(wish(dir), nil)
	wantError(t, err, own, "link")
}

// What is recorded is believed as far as plexus can have chosen it.
func TestValid(t *testing.T) {
	ok := Use{Folder: Folder{Dir: "/base/" + ownName, Own: true}, File: "sock"}
	for name, c := range map[string]struct {
		change func(*Use)
		want   bool
	}{
		"own":                      {func(*Use) {}, true},
		"own, former form":         {func(u *Use) { u.Dir = "/base/" + Short(sandbox) }, true},
		"volume":                   {func(u *Use) { u.Own, u.Dir = false, "/volume" }, true},
		"short link":               {func(u *Use) { u.Link = ShortLinks + "/" + unique }, true},
		"configuration":            {func(u *Use) { u.Config = ConfigFile(sandbox, "net1") }, true},
		"another's folder":         {func(u *Use) { u.Dir = "/base/ffffffffffffffffffffffff" }, false},
		"a folder of the node":     {func(u *Use) { u.Dir = "/var/lib/kubelet" }, false},
		"part of the ID":           {func(u *Use) { u.Dir = "/base/0123456789abc" }, false},
		"relative":                 {func(u *Use) { u.Dir = ownName }, false},
		"not clean":                {func(u *Use) { u.Dir = "/base/../etc/" + ownName }, false},
		"root":                     {func(u *Use) { u.Own, u.Dir = false, "/" }, false},
		"none":                     {func(u *Use) { u.Own, u.Dir = false, "" }, false},
		"no socket":                {func(u *Use) { u.File = "" }, false},
		"socket elsewhere":         {func(u *Use) { u.File = "../sock" }, false},
		"configuration elsewhere":  {func(u *Use) { u.Config = "configData-/../../etc/passwd" }, false},
		"no configuration's name":  {func(u *Use) { u.Config = "passwd" }, false},
		"another's short link":     {func(u *Use) { u.Link = ShortLinks + "/other" }, false},
		"short link elsewhere":     {func(u *Use) { u.Link = "/etc/" + unique }, false},
		"short link above its own": {func(u *Use) { u.Link = ShortLinks + "/x/../" + unique }, false},
	} {
		u := ok
		c.change(&u)
		if u.Valid(sandbox, unique) != c.want {
			t.Errorf("%s: valid %v, want %v", name, !c.want, c.want)
		}
	}
	if ok.Valid("", unique) {
		t.Error("valid without a container ID")
	}
}

// Whatever words a mark has, it leads to a folder of the form that plexus gives,
// directly below the base, and to names in it.
func FuzzMarked(f *testing.F) {
	for _, s := range []string{sandbox, "kubelet", "", "..", "../../etc", "/etc", "a\x00b", ".", strings.Repeat("f", 24)} {
		f.Add(s, s)
	}
	f.Fuzz(func(t *testing.T, sandbox, ifName string) {
		u, ok := Marked("/base", sandbox, ifName, Short(sandbox)+"-"+ifName, unique)
		if !ok {
			return
		}
		if filepath.Dir(u.Dir) != "/base" || !ownForm.MatchString(filepath.Base(u.Dir)) || u.Link != ShortLinks+"/"+unique || u.Made || u.FormerGID != nil {
			t.Errorf("sandbox %q leads to %+v", sandbox, u)
		}
		for _, name := range []string{u.File, u.Config} {
			if filepath.Base(name) != name || name == "." || name == ".." || strings.ContainsRune(name, 0) {
				t.Errorf("sandbox %q, interface %q leads to the name %q", sandbox, ifName, name)
			}
		}
	})
}

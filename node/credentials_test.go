package node

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"k8s.io/client-go/tools/clientcmd"
)

// account is a service account's folder as the kubelet makes it: the files are
// links into a folder that is exchanged when the token is rotated.
type account struct {
	t   *testing.T
	dir string
}

func newAccount(t *testing.T) *account {
	a := &account{t, t.TempDir()}
	a.rotate("one")
	for _, name := range []string{"token", "ca.crt"} {
		if err := os.Symlink("..data/"+name, filepath.Join(a.dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	return a
}

func (a *account) rotate(token string) {
	a.t.Helper()
	version := "..version-" + token
	for _, do := range []error{
		os.Mkdir(filepath.Join(a.dir, version), 0o755),
		os.WriteFile(filepath.Join(a.dir, version, "token"), []byte(token), 0o600),
		os.WriteFile(filepath.Join(a.dir, version, "ca.crt"), []byte("certificate"), 0o600),
		os.Symlink(version, filepath.Join(a.dir, "..next")),
		os.Rename(filepath.Join(a.dir, "..next"), filepath.Join(a.dir, "..data")),
	} {
		if do != nil {
			a.t.Fatal(do)
		}
	}
}

func (r *rig) withAccount() *account {
	r.t.Helper()
	a := newAccount(r.t)
	root, err := os.OpenRoot(a.dir)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { _ = root.Close() })
	r.Account, r.Server = root.FS(), "https://[fd00::1]:6443"
	return a
}

func TestCredentials(t *testing.T) {
	r := newRig(t)
	a := r.withAccount()
	if changed, err := r.Credentials(t.Context()); err != nil || !changed {
		t.Fatalf("changed %v, %v", changed, err)
	}
	config, err := clientcmd.BuildConfigFromFlags("", r.Kubeconfig())
	if err != nil {
		t.Fatal(err)
	}
	token := filepath.Join(r.CredDir, "token")
	if config.Host != "https://[fd00::1]:6443" || config.BearerTokenFile != token || config.CAFile != filepath.Join(r.CredDir, "ca.crt") {
		t.Errorf("client-go reads %+v", config)
	}
	if got := r.read(token); got != "one" {
		t.Errorf("token is %q", got)
	}
	for path, want := range map[string]os.FileMode{
		r.CredDir: os.ModeDir | 0o700, token: 0o600, r.Kubeconfig(): 0o600, filepath.Join(r.CredDir, "ca.crt"): 0o600,
	} {
		if st, err := os.Stat(path); err != nil || st.Mode() != want {
			t.Errorf("%s: %v, %v, want %v", path, st.Mode(), err, want)
		}
	}
	if changed, err := r.Credentials(t.Context()); err != nil || changed {
		t.Errorf("a second time: changed %v, %v", changed, err)
	}
	a.rotate("two")
	if changed, err := r.Credentials(t.Context()); err != nil || !changed || r.read(token) != "two" {
		t.Errorf("rotated: changed %v, %v, token %q", changed, err, r.read(token))
	}
}

// What a killed installer, or people, have left is put right.
func TestCredentialsRepaired(t *testing.T) {
	r := newRig(t)
	r.withAccount()
	temp := filepath.Join(r.CredDir, tempPrefix+"123")
	token := filepath.Join(r.CredDir, "token")
	for _, do := range []error{
		os.Mkdir(r.CredDir, 0o755), os.WriteFile(temp, []byte("on"), 0o600), os.WriteFile(token, []byte("one"), 0o644),
	} {
		if do != nil {
			t.Fatal(do)
		}
	}
	if _, err := r.Credentials(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := r.names(r.CredDir); got != "ca.crt plexus.kubeconfig token" {
		t.Errorf("there are %s", got)
	}
	if st, err := os.Stat(token); err != nil || st.Mode() != 0o600 {
		t.Errorf("token: %v, %v", st, err)
	}
	if st, err := os.Stat(r.CredDir); err != nil || st.Mode().Perm() != 0o700 {
		t.Errorf("folder: %v, %v", st, err)
	}
}

func TestCredentialsRefused(t *testing.T) {
	file := func(s string) *fstest.MapFile { return &fstest.MapFile{Data: []byte(s)} }
	for _, c := range []struct {
		name    string
		account fstest.MapFS
		server  string
		want    string
	}{
		{"no token", fstest.MapFS{"ca.crt": file("c")}, "https://a:1", "service account: open token"},
		{"empty token", fstest.MapFS{"ca.crt": file("c"), "token": file("")}, "https://a:1", "service account: token: 0 bytes"},
		{"no certificate", fstest.MapFS{"token": file("t")}, "https://a:1", "service account: open ca.crt"},
		{"huge", fstest.MapFS{"token": file(strings.Repeat("t", maxFile+1)), "ca.crt": file("c")}, "https://a:1", "want 1 to"},
		{"no server", fstest.MapFS{"token": file("t"), "ca.crt": file("c")}, "", "kubeconfig: the API server's URL is not known"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t)
			r.Account, r.Server = c.account, c.server
			if _, err := r.Credentials(t.Context()); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want %q", err, c.want)
			}
			if _, err := os.Stat(r.CredDir); err == nil {
				t.Errorf("there are %s", r.names(r.CredDir))
			}
		})
	}
	r := newRig(t)
	r.withAccount()
	r.put("plexus.d", "a file")
	if _, err := r.Credentials(t.Context()); err == nil || !strings.Contains(err.Error(), "folder of credentials") {
		t.Errorf("error %v", err)
	}
}

func TestAPIServer(t *testing.T) {
	env := func(host, port string) func(string) string {
		return func(key string) string {
			return map[string]string{"KUBERNETES_SERVICE_HOST": host, "KUBERNETES_SERVICE_PORT": port}[key]
		}
	}
	for _, c := range []struct{ host, port, want string }{
		{"10.96.0.1", "443", "https://10.96.0.1:443"},
		{"fd00::1", "443", "https://[fd00::1]:443"},
		{"", "443", ""},
		{"10.96.0.1", "", ""},
	} {
		got, err := APIServer(env(c.host, c.port))
		if got != c.want || (err == nil) != (c.want != "") {
			t.Errorf("%q %q: %q, %v", c.host, c.port, got, err)
		}
	}
}

package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
)

// kubeconfigName is what the kubeconfig is called in CredDir.
const kubeconfigName = "plexus.kubeconfig"

// APIServer is the URL of the API server that a pod's environment names
// (KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT).
func APIServer(getenv func(string) string) (string, error) {
	host, port := getenv("KUBERNETES_SERVICE_HOST"), getenv("KUBERNETES_SERVICE_PORT")
	if host == "" || port == "" {
		return "", errors.New("KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT are not set: this is no pod")
	}
	return "https://" + net.JoinHostPort(host, port), nil
}

// Kubeconfig is the file that the configuration names.
func (n *Node) Kubeconfig() string { return filepath.Join(n.CredDir, kubeconfigName) }

// Credentials writes token, ca.crt and plexus.kubeconfig to CredDir, those that
// are other than before. The kubeconfig names the token's file, which client-go
// reads again and again (rest.Config.BearerTokenFile), so a rotated token is
// all that has to be written anew.
func (n *Node) Credentials(ctx context.Context) (changed bool, err error) {
	if n.Account == nil {
		return false, nil
	}
	token, err := readAccount(n.Account, "token")
	if err != nil {
		return false, err
	}
	ca, err := readAccount(n.Account, "ca.crt")
	if err != nil {
		return false, err
	}
	config, err := n.kubeconfig()
	if err != nil {
		return false, err
	}
	err = n.locked(ctx, func() error {
		if err := os.MkdirAll(n.CredDir, 0o700); err != nil {
			return fmt.Errorf("folder of credentials: %w", err)
		}
		if err := os.Chmod(n.CredDir, 0o700); err != nil {
			return fmt.Errorf("folder of credentials: %w", err)
		}
		if err := clearTemps(n.CredDir); err != nil {
			return err
		}
		for _, f := range []struct {
			name string
			data []byte
		}{{"ca.crt", ca}, {"token", token}, {kubeconfigName, config}} {
			written, err := write(n.CredDir, f.name, 0o600, f.data)
			if err != nil {
				return fmt.Errorf("credentials: %w", err)
			}
			changed = changed || written
		}
		return nil
	})
	return changed, err
}

// readAccount reads a file of the service account, which is never empty.
func readAccount(account fs.FS, name string) ([]byte, error) {
	f, err := account.Open(name)
	if err != nil {
		return nil, fmt.Errorf("service account: %w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err == nil && (len(data) == 0 || len(data) > maxFile) {
		err = fmt.Errorf("%s: %d bytes, want 1 to %d", name, len(data), maxFile)
	}
	if err != nil {
		return nil, fmt.Errorf("service account: %w", err)
	}
	return data, nil
}

// kubeconfig is JSON, which is YAML.
func (n *Node) kubeconfig() ([]byte, error) {
	if n.Server == "" {
		return nil, errors.New("kubeconfig: the API server's URL is not known")
	}
	type object map[string]any
	return marshal(object{
		"apiVersion": "v1",
		"kind":       "Config",
		"clusters": []object{{"name": "plexus", "cluster": object{
			"server": n.Server, "certificate-authority": filepath.Join(n.CredDir, "ca.crt"),
		}}},
		"users":           []object{{"name": "plexus", "user": object{"tokenFile": filepath.Join(n.CredDir, "token")}}},
		"contexts":        []object{{"name": "plexus", "context": object{"cluster": "plexus", "user": "plexus"}}},
		"current-context": "plexus",
	})
}

// removeCredentials takes CredDir away, unless somebody else has put a file
// there, which stays with the folder.
func (n *Node) removeCredentials() error {
	errs := []error{clearTemps(n.CredDir)}
	for _, name := range []string{kubeconfigName, "token", "ca.crt"} {
		errs = append(errs, removeFile(filepath.Join(n.CredDir, name)))
	}
	entries, err := os.ReadDir(n.CredDir)
	if err == nil && len(entries) == 0 {
		errs = append(errs, removeFile(n.CredDir))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("remove credentials: %w", err)
	}
	return nil
}

// marshal is JSON for people: indented, with an end of line.
func marshal(v any) ([]byte, error) {
	data, err := json.MarshalIndent(v, "", "  ")
	return append(data, '\n'), err
}

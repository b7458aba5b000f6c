package ovsdpdk

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"

	"github.com/plexus-cni/plexus/conf"
	"github.com/plexus-cni/plexus/shareddir"
)

// maxRemotes bounds the remotes of one address.
const maxRemotes = 8

// keyFolder has the node's certificate, key and certificate authority for OVSDBs by ssl, in
// PEM: tls.crt, tls.key and ca.crt, as in a Secret of type kubernetes.io/tls.
var keyFolder = filepath.Join(filepath.Dir(conf.NodeFile), "ovsdb")

// remotesOf are the remotes of an address: the servers of one OVSDB, as OVS writes them
// (ovsdb(7)).
func remotesOf(address string) []string { return strings.Split(address, ",") }

func checkAddress(address string) error {
	all := remotesOf(address)
	if len(all) > maxRemotes {
		return fmt.Errorf("%d remotes, at most %d are allowed", len(all), maxRemotes)
	}
	for _, remote := range all {
		scheme, rest, _ := strings.Cut(remote, ":")
		host, port, err := net.SplitHostPort(rest)
		switch {
		case scheme == "unix" && (!filepath.IsAbs(rest) || len(rest) > shareddir.MaxSocketPath):
			return fmt.Errorf("%.200q, want unix:/path/of/db.sock, at most %d bytes", remote, shareddir.MaxSocketPath)
		case (scheme == "tcp" || scheme == "ssl") && (err != nil || host == "" || port == ""):
			return fmt.Errorf("%.200q, want %s:host:port", remote, scheme)
		case scheme != "unix" && scheme != "tcp" && scheme != "ssl":
			return fmt.Errorf("%.200q, want unix:/path/of/db.sock, tcp:host:port or ssl:host:port, or several of them with commas between", remote)
		}
	}
	return nil
}

// dialRemote connects to one server.
func dialRemote(ctx context.Context, remote string) (net.Conn, error) {
	scheme, place, _ := strings.Cut(remote, ":")
	if scheme != "ssl" {
		return (&net.Dialer{}).DialContext(ctx, scheme, place)
	}
	config, err := tlsConfig()
	if err != nil {
		return nil, err
	}
	return (&tls.Dialer{Config: config}).DialContext(ctx, "tcp", place)
}

// tlsConfig identifies the node, and trusts a server whose certificate the authority has
// signed. As with OVS' own clients, the certificate's name does not matter: ovs-pki(8) writes
// no names of hosts.
func tlsConfig() (*tls.Config, error) {
	own, err := tls.LoadX509KeyPair(filepath.Join(keyFolder, "tls.crt"), filepath.Join(keyFolder, "tls.key"))
	if err != nil {
		return nil, fmt.Errorf("the node's certificate for OVSDB: %w", err)
	}
	text, err := os.ReadFile(filepath.Join(keyFolder, "ca.crt"))
	if err != nil {
		return nil, fmt.Errorf("the certificate authority of OVSDB: %w", err)
	}
	authority := x509.NewCertPool()
	if !authority.AppendCertsFromPEM(text) {
		return nil, fmt.Errorf("the certificate authority of OVSDB: %s has no certificate", filepath.Join(keyFolder, "ca.crt"))
	}
	return &tls.Config{
		Certificates:       []tls.Certificate{own},
		MinVersion:         tls.VersionTLS12,
		InsecureSkipVerify: true, // VerifyConnection does it
		VerifyConnection: func(s tls.ConnectionState) error {
			if len(s.PeerCertificates) == 0 {
				return errors.New("the server shows no certificate")
			}
			intermediates := x509.NewCertPool()
			for _, c := range s.PeerCertificates[1:] {
				intermediates.AddCert(c)
			}
			_, err := s.PeerCertificates[0].Verify(x509.VerifyOptions{Roots: authority, Intermediates: intermediates, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}})
			return err
		},
	}, nil
}

// socketPath is the path of the OVSDB's socket, "" where it is not on this node.
func socketPath(address string) string {
	for _, remote := range remotesOf(address) {
		if path, ok := strings.CutPrefix(remote, "unix:"); ok {
			return path
		}
	}
	return ""
}

// runFolder is the folder of an OVSDB's socket, "" where it is not on this node.
func runFolder(address string) string {
	if path := socketPath(address); path != "" {
		return filepath.Dir(path)
	}
	return ""
}

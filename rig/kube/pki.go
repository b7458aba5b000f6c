package kube

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"
)

// authority is the one certificate authority of a cluster: of its servers and of
// its users.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  []byte
}

// credentials are a certificate and its key, in PEM.
type credentials struct{ cert, key []byte }

func newAuthority() (*authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make the certificate authority: %w", err)
	}
	a := &authority{key: key, cert: certificate(pkix.Name{CommonName: "plexus-kube"})}
	a.cert.IsCA, a.cert.BasicConstraintsValid = true, true
	a.cert.KeyUsage |= x509.KeyUsageCertSign
	der, err := x509.CreateCertificate(rand.Reader, a.cert, a.cert, key.Public(), key)
	if err == nil {
		a.cert, err = x509.ParseCertificate(der)
	}
	if err != nil {
		return nil, fmt.Errorf("make the certificate authority: %w", err)
	}
	a.pem = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	return a, nil
}

func certificate(subject pkix.Name) *x509.Certificate {
	serial, _ := rand.Int(rand.Reader, big.NewInt(1<<62)) // fails for no reader of the system
	return &x509.Certificate{
		SerialNumber: serial,
		Subject:      subject,
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().AddDate(1, 0, 0),
		KeyUsage:     x509.KeyUsageDigitalSignature,
	}
}

// server makes the credentials of a server at the given addresses.
func (a *authority) server(name string, names []string, ips ...string) (credentials, error) {
	t := certificate(pkix.Name{CommonName: name})
	t.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	t.DNSNames = names
	for _, ip := range ips {
		t.IPAddresses = append(t.IPAddresses, net.ParseIP(ip))
	}
	return a.sign(t)
}

// client makes the credentials of a user, who is in the given groups.
func (a *authority) client(user string, groups ...string) (credentials, error) {
	t := certificate(pkix.Name{CommonName: user, Organization: groups})
	t.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	return a.sign(t)
}

func (a *authority) sign(t *x509.Certificate) (credentials, error) {
	key, keyPEM, err := newKey()
	if err != nil {
		return credentials{}, err
	}
	der, err := x509.CreateCertificate(rand.Reader, t, a.cert, key.Public(), a.key)
	if err != nil {
		return credentials{}, fmt.Errorf("make the certificate of %s: %w", t.Subject.CommonName, err)
	}
	return credentials{cert: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), key: keyPEM}, nil
}

// newKey makes a key, in PEM as well.
func newKey() (*ecdsa.PrivateKey, []byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("make a key: %w", err)
	}
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return nil, nil, fmt.Errorf("make a key: %w", err)
	}
	return key, pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}), nil
}

// writePKI writes what the servers read, into the folder pki.
func (c *Cluster) writePKI() error {
	var err error
	if c.ca, err = newAuthority(); err != nil {
		return err
	}
	_, accounts, err := newKey()
	if err != nil {
		return err
	}
	files := map[string][]byte{"ca.crt": c.ca.pem, "accounts.key": accounts}
	makers := map[string]func() (credentials, error){
		"apiserver": func() (credentials, error) {
			names := []string{"localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc"}
			return c.ca.server("kube-apiserver", names, "127.0.0.1", c.serverIP, serviceIP)
		},
		"apiserver-kubelet": func() (credentials, error) { return c.ca.client("kube-apiserver", "system:masters") },
	}
	if c.node != nil {
		makers["kubelet"] = func() (credentials, error) { return c.ca.server(NodeName, []string{NodeName}, c.NodeIP()) }
	}
	for name, make := range makers {
		cred, err := make()
		if err != nil {
			return err
		}
		files[name+".crt"], files[name+".key"] = cred.cert, cred.key
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(c.path("pki"), name), text, 0o600); err != nil {
			return fmt.Errorf("write the certificates: %w", err)
		}
	}
	return nil
}

package ovsdpdk

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"math/big"
	"net"
	"os"
	"strings"
	"testing"
	"time"
)

// signer is a certificate with its key; that of an authority signs others.
type signer struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// sign makes a certificate without a host's name, as ovs-pki(8) does. Without an authority it is
// one itself.
func sign(t *testing.T, by *signer) *signer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: "of a test"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: by == nil, BasicConstraintsValid: true,
	}
	parent, signing := template, key
	if by != nil {
		parent, signing = by.cert, by.key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signing)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &signer{cert, key}
}

// save writes a certificate and its key.
func (s *signer) save(t *testing.T, cert, key string) {
	t.Helper()
	der, err := x509.MarshalECPrivateKey(s.key)
	if err != nil {
		t.Fatal(err)
	}
	write(t, cert, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.cert.Raw})))
	write(t, key, string(pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der})))
}

// serveTLS passes what comes by TLS from clients of an authority on to a unix socket.
func serveTLS(t *testing.T, own, clients *signer, socket string) (address string) {
	t.Helper()
	pool := x509.NewCertPool()
	pool.AddCert(clients.cert)
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{
		Certificates: []tls.Certificate{{Certificate: [][]byte{own.cert.Raw}, PrivateKey: own.key}},
		ClientAuth:   tls.RequireAndVerifyClientCert, ClientCAs: pool,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			server, err := net.Dial("unix", socket)
			if err != nil {
				_ = client.Close()
				continue
			}
			t.Cleanup(func() { _, _ = client.Close(), server.Close() })
			go func() { _, _ = io.Copy(server, client) }()
			go func() { _, _ = io.Copy(client, server) }()
		}
	}()
	return "ssl:" + l.Addr().String()
}

// A pod is attached over ssl with the node's own keys, by the first remote of a list that
// answers; a server of another authority is none.
func TestSSL(t *testing.T) {
	r := newRig(t)
	authority := sign(t, nil)
	if err := os.MkdirAll(keyFolder, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(keyFolder) })
	sign(t, authority).save(t, keyFolder+"/tls.crt", keyFolder+"/tls.key")
	authority.save(t, keyFolder+"/ca.crt", keyFolder+"/ca.key")
	socket := strings.TrimPrefix(r.address, "unix:")
	good, bad := serveTLS(t, sign(t, authority), authority, socket), serveTLS(t, sign(t, sign(t, nil)), authority, socket)
	before := r.world()
	for _, c := range []struct{ ovsdb, says string }{
		{good, ""}, {"unix:" + tempDir(t) + "/none.sock," + good, ""}, {bad + "," + good, ""}, {bad, "certificate"},
	} {
		d := newDelegate(t)
		a := r.attachment(d, sandbox, map[string]any{"ovsdb": c.ovsdb})
		err := attach(t, d, a)
		if c.says != "" {
			wantError(t, err, c.says, c.ovsdb)
		} else {
			wantErrorNone(t, err)
			wantErrorNone(t, a.Network.Check(bounded(t), a))
			mustDetach(t, d, a)
		}
		d.Close()
		sameWorld(t, before, r.world())
	}
}

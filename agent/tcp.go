package agent

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"log/slog"
	"math/big"
	"net/http"
	"os"
	"time"
)

// remoteServer serves what changes nothing over TLS, to users whom the API server lets read
// the path (allowed is cluster.Allowed). It has limits, for anybody can reach the port.
func (i *inspection) remoteServer(allowed func(ctx context.Context, token, path string) error) (*http.Server, error) {
	certificate, err := ownCertificate(i.node)
	if err != nil {
		return nil, err
	}
	mux := http.NewServeMux()
	i.routes(mux)
	return &http.Server{
		Handler:           newGuard(mux, allowed, time.Now),
		ReadHeaderTimeout: 10 * time.Second, ReadTimeout: 10 * time.Second, IdleTimeout: time.Minute, MaxHeaderBytes: 2 * maxToken,
		ErrorLog:  slog.NewLogLogger(i.telemetry.log.Handler(), slog.LevelWarn),
		TLSConfig: &tls.Config{Certificates: []tls.Certificate{certificate}, MinVersion: tls.VersionTLS12},
	}, nil
}

// ownCertificate makes the agent's certificate, which it signs itself.
func ownCertificate(node string) (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	host, err := os.Hostname()
	if err != nil {
		return tls.Certificate{}, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: "plexus " + node}, DNSNames: []string{host, node},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().AddDate(10, 0, 0), KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, err
}

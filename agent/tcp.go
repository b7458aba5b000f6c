package agent

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"os"
	"time"
)

// inspectionServer serves what changes nothing over TLS, to users whom the API server
// lets read the path.
type inspectionServer struct {
	listener    net.Listener
	handler     http.Handler
	certificate tls.Certificate // the agent's own
	log         *slog.Logger
}

// listenTCP opens an address. allowed is cluster.Allowed.
func (i *inspection) listenTCP(address string, allowed func(ctx context.Context, token, path string) error) (*inspectionServer, error) {
	certificate, err := ownCertificate(i.node)
	if err != nil {
		return nil, err
	}
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("--listen: %w", err)
	}
	mux := http.NewServeMux()
	i.routes(mux)
	return &inspectionServer{listener: listener, handler: newGuard(mux, allowed, time.Now), certificate: certificate, log: i.telemetry.log}, nil
}

// Run serves until ctx is done.
func (s *inspectionServer) Run(ctx context.Context) error {
	server := s.server()
	return runHTTP(ctx, server, func() error { return server.ServeTLS(s.listener, "", "") })
}

// server has limits, for anybody can reach the port.
func (s *inspectionServer) server() *http.Server {
	return &http.Server{
		Handler:           s.handler,
		ReadHeaderTimeout: 10 * time.Second, ReadTimeout: 10 * time.Second, IdleTimeout: time.Minute, MaxHeaderBytes: 2 * maxToken,
		ErrorLog:  slog.NewLogLogger(s.log.Handler(), slog.LevelWarn),
		TLSConfig: &tls.Config{Certificates: []tls.Certificate{s.certificate}, MinVersion: tls.VersionTLS12},
	}
}

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

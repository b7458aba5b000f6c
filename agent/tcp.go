package agent

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"
)

// listenTCP serves what reading has, over TLS with a certificate of its own, to
// whom the API server knows and lets read the path.
func (s *Server) listenTCP(failed chan<- error) (*http.Server, error) {
	if s.cluster == nil {
		return nil, errors.New("--listen needs an API server, which knows the tokens of those who read")
	}
	certificate, err := ownCertificate(s.Name)
	if err != nil {
		return nil, err
	}
	listener, err := net.Listen("tcp", s.Listen)
	if err != nil {
		return nil, fmt.Errorf("--listen: %w", err)
	}
	mux := http.NewServeMux()
	s.reading(mux)
	remote := &http.Server{
		Handler: &guard{next: mux, allowed: s.cluster.Allowed, known: map[[sha256.Size]byte]time.Time{}}, ReadHeaderTimeout: 10 * time.Second,
		ReadTimeout: 10 * time.Second, IdleTimeout: time.Minute, // of anybody who can reach the port
		ErrorLog:  slog.NewLogLogger(s.Log.Handler(), slog.LevelWarn),
		TLSConfig: &tls.Config{Certificates: []tls.Certificate{certificate}, MinVersion: tls.VersionTLS12},
	}
	go func() { failed <- remote.ServeTLS(listener, "", "") }()
	return remote, nil
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

// guard lets those through whose bearer token the API server allows. What it has
// allowed holds for a while.
type guard struct {
	next    http.Handler
	allowed func(ctx context.Context, token, path string) error

	mu    sync.Mutex
	known map[[sha256.Size]byte]time.Time // by token and path: until when
}

// Bounds of what the guard remembers.
const (
	allowedFor = time.Minute
	maxKnown   = 1000
)

// ServeHTTP is http.Handler.
func (g *guard) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/healthz" {
		g.next.ServeHTTP(w, r)
		return
	}
	token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if !ok || token == "" {
		w.Header().Set("WWW-Authenticate", "Bearer")
		http.Error(w, "a bearer token that the API server knows is needed", http.StatusUnauthorized)
		return
	}
	key := sha256.Sum256([]byte(token + "\x00" + r.URL.Path))
	if !g.remembers(key) {
		if err := g.allowed(r.Context(), token, r.URL.Path); err != nil {
			status := http.StatusForbidden
			var away interface{ Temporary() bool }
			if errors.As(err, &away) && away.Temporary() {
				status = http.StatusServiceUnavailable
			}
			http.Error(w, err.Error(), status)
			return
		}
		g.remember(key)
	}
	g.next.ServeHTTP(w, r)
}

func (g *guard) remembers(key [sha256.Size]byte) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return time.Now().Before(g.known[key])
}

func (g *guard) remember(key [sha256.Size]byte) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.known) >= maxKnown {
		clear(g.known)
	}
	g.known[key] = time.Now().Add(allowedFor)
}

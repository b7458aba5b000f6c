package memif

import (
	"bytes"
	"sync"
	"testing"
	"time"
	"path/filepath"
)

func TestSelf(t *testing.T) {
	sock := filepath.Join(t.TempDir(), "s")
	l, err := Listen(sock)
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	got := 0
	var srv *Interface
	srv, err = l.Open(Config{ID: 3, Receive: func(f []byte) {
		srv.Send(f)
	}})
	if err != nil {
		t.Fatal(err)
	}
	up := make(chan bool, 10)
	want := bytes.Repeat([]byte("x"), 5000)
	c, err := Connect(sock, Config{ID: 3, Receive: func(f []byte) {
		mu.Lock()
		defer mu.Unlock()
		if bytes.Equal(f, want) {
			got++
		}
	}, Link: func(b bool) { up <- b }})
	if err != nil {
		t.Fatal(err)
	}
	<-up
	for range 10000 {
		if !c.Send(want) {
			t.Fatal("not sent")
		}
	}
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(time.Millisecond) {
		mu.Lock()
		n := got
		mu.Unlock()
		if n == 10000 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal(n)
		}
	}
	srv.Close()
	srv.Wait()
	if <-up {
		t.Fatal("up")
	}
	l.Close()
	l.Wait()
	c.Close()
	c.Wait()
}

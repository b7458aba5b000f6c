package conf

import (
	"errors"
	"fmt"
	"strings"
	"testing"
)

// What was read is read once, under its own network's name; errors and long texts are
// not kept, and of many the last ones are.
func TestRemembered(t *testing.T) {
	var reads []string
	parse := Remembered(func(network string, data []byte) (*string, []string, error) {
		reads = append(reads, network+" "+string(data)[:min(3, len(data))])
		if string(data) == "bad" {
			return nil, nil, errors.New("bad")
		}
		text := string(data)
		return &text, []string{"of " + network}, nil
	})
	read := func(network, data string) {
		t.Helper()
		c, warnings, err := parse(network, []byte(data))
		if (err != nil) != (data == "bad") || err == nil && (*c != data || warnings[0] != "of "+network) {
			t.Errorf("%s %.10s: %v %v %v", network, data, c, warnings, err)
		}
	}
	long := strings.Repeat("l", longestRemembered+1)
	for range 2 {
		for _, data := range []string{"one", "two", "bad", long} {
			read("a", data)
		}
		read("b", "one")
	}
	want := "a one,a two,a bad,a lll,b one,a bad,a lll"
	if got := strings.Join(reads, ","); got != want {
		t.Errorf("read %s, want %s", got, want)
	}
	for i := range 3 * mostRemembered {
		read("many", fmt.Sprint(i))
	}
	reads = nil
	read("many", fmt.Sprint(3*mostRemembered-1))
	read("a", "one")
	if got := strings.Join(reads, ","); got != "a one" {
		t.Errorf("read %s", got)
	}
}

// Lists that are made of one text are one another's no more than of two.
func TestListsAreApart(t *testing.T) {
	d := &Definition{Origin: "NAD x/y", Fallback: "y", Config: []byte(`{"type": "sriov"}`)}
	first, err := d.ParseList("1.0.0")
	if err != nil {
		t.Fatal(err)
	}
	if err := first.inject(nil, "0000:01:00.1"); err != nil {
		t.Fatal(err)
	}
	d.Fallback = "z"
	second, err := d.ParseList("0.4.0")
	if err != nil {
		t.Fatal(err)
	}
	if string(second.Plugins[0]) != `{"type": "sriov"}` || second.Name != "z" || second.CNIVersion != "0.4.0" || first.Name != "y" || first.CNIVersion != "1.0.0" {
		t.Errorf("%+v %+v", first, second)
	}
}

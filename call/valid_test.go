package call

import (
	"errors"
	"strings"
	"testing"

	"github.com/plexus-cni/plexus/delegates"
)

// A list of valid attachments that is not whole is refused, with the member that is
// wrong: each attachment that it lacks would be undone.
func TestValidAttachmentsAreWhole(t *testing.T) {
	for text, says := range map[string]string{
		`{}`:                                   "missing",
		`{"cni.dev/valid-attachments":null}`:   "is null, want an array",
		`{"cni.dev/valid-attachments":{}}`:     "is {}, want an array",
		`{"cni.dev/valid-attachments":"all"}`:  "want an array",
		`{"cni.dev/valid-attachments":[null]}`: "member 0 is null",
		`{"cni.dev/valid-attachments":[{}]}`:   "member 0: containerID",
		`{"cni.dev/valid-attachments":["a"]}`:  `member 0 is "a"`,
		`{"cni.dev/valid-attachments":[[]]}`:   "member 0 is []",
		`{"cni.dev/valid-attachments":[{"containerID":"a","ifname":"eth0"},{"containerID":"b"}]}`:     "member 1: ifname",
		`{"cni.dev/valid-attachments":[{"containerID":"a","ifname":"eth0"},{"ifname":"b"}]}`:          "member 1: containerID",
		`{"cni.dev/valid-attachments":[{"containerID":"","ifname":"eth0"}]}`:                          "member 0: containerID",
		`{"cni.dev/valid-attachments":[{"containerID":"a","ifname":null}]}`:                           "member 0: ifname",
		`{"cni.dev/valid-attachments":[{"containerID":7,"ifname":"eth0"}]}`:                           "member 0 is",
		`{"cni.dev/valid-attachments":[{"containerID":"a","ifname":"eth0"},{"containerID":"b"}] x}`:   "invalid character",
		`{"cni.dev/valid-attachments":[{"containerID":"a","ifname":"eth0"},{"containerID":"b"}],"}"}`: "invalid character",
	} {
		valid, err := validAttachments([]byte(text))
		var coded *delegates.Error
		if valid != nil || !errors.As(err, &coded) || coded.Code != 7 || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v, %v, want code 7 and %q", text, valid, err, says)
		}
	}
	for text, n := range map[string]int{
		`{"cni.dev/valid-attachments":[]}`:                                             0,
		`{"cni.dev/valid-attachments":[{"containerID":"a","ifname":"eth0","more":1}]}`: 1,
	} {
		if valid, err := validAttachments([]byte(text)); err != nil || valid == nil || len(valid) != n {
			t.Errorf("%s: %v, %v", text, valid, err)
		}
	}
}

package call

import (
	"encoding/json"
	"fmt"

	"github.com/containernetworking/cni/pkg/types"
)

// validAttachments reads the attachments that the runtime knows (CNI specification 1.1.0,
// section "GC"). A list that is not whole is refused: each attachment that it lacks would
// be undone.
func validAttachments(stdin []byte) ([]types.GCAttachment, error) {
	const key = "cni.dev/valid-attachments"
	refuse := func(format string, args ...any) ([]types.GCAttachment, error) {
		return nil, configError(fmt.Errorf("GC: key %q%s: nothing is undone", key, fmt.Sprintf(format, args...)))
	}
	var keys map[string]json.RawMessage
	if err := json.Unmarshal(stdin, &keys); err != nil {
		return nil, configError(err)
	}
	text, ok := keys[key]
	if !ok {
		return refuse(" is missing: without it every attachment would be stale")
	}
	var list []json.RawMessage
	if err := json.Unmarshal(text, &list); err != nil || list == nil {
		return refuse(" is %.80s, want an array of objects with containerID and ifname", text)
	}
	valid := make([]types.GCAttachment, len(list))
	for i, member := range list {
		var a *struct {
			ContainerID *string `json:"containerID"`
			IfName      *string `json:"ifname"`
		}
		err := json.Unmarshal(member, &a)
		switch {
		case err != nil || a == nil:
			return refuse(", member %d is %.80s, want an object with containerID and ifname", i, member)
		case a.ContainerID == nil || *a.ContainerID == "":
			return refuse(", member %d: containerID is missing or empty in %.200s", i, member)
		case a.IfName == nil || *a.IfName == "":
			return refuse(", member %d: ifname is missing or empty in %.200s", i, member)
		}
		valid[i] = types.GCAttachment{ContainerID: *a.ContainerID, IfName: *a.IfName}
	}
	return valid, nil
}

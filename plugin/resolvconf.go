package plugin

import (
	"cmp"
	"fmt"
	"io"
	"net/netip"
	"os"
	"regexp"
	"slices"
	"strings"

	"github.com/containernetworking/cni/pkg/types"
	"golang.org/x/sys/unix"
)

// maxResolvConf bounds a resolver configuration file, in bytes.
const maxResolvConf = 64 << 10

// Values of resolv.conf(5).
var (
	dnsLabel       = regexp.MustCompile(`^[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?$`)
	resolverOption = regexp.MustCompile(`^[A-Za-z0-9:_-]+$`)
)

const maxResolverOption = 64

func isResolverOption(s string) bool {
	return len(s) <= maxResolverOption && resolverOption.MatchString(s)
}

func isDNSName(s string) bool {
	if len(s) > 254 {
		return false
	}
	for label := range strings.SplitSeq(strings.TrimSuffix(s, "."), ".") {
		if s != "." && (len(label) > 63 || !dnsLabel.MatchString(label)) {
			return false
		}
	}
	return true
}

// isResolver reports whether s is an address without a zone: a zone is an interface of this
// node, which no pod has.
func isResolver(s string) bool {
	ip, err := netip.ParseAddr(s)
	return err == nil && ip.Zone() == ""
}

// readResolvConf reads a resolver configuration file, resolv.conf(5). Its values
// become part of the pod's network-status: the file must be regular and readable for every
// user of the node, and words that are no valid value of a directive are left out.
func readResolvConf(path string) (types.DNS, error) {
	// O_NONBLOCK: the open of a FIFO would wait for a writer.
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return types.DNS{}, err
	}
	defer f.Close()
	st, err := f.Stat()
	switch {
	case err != nil:
		return types.DNS{}, err
	case !st.Mode().IsRegular():
		return types.DNS{}, fmt.Errorf("%s is no regular file", path)
	case st.Mode()&0o004 == 0:
		return types.DNS{}, fmt.Errorf("%s is not for every user to read (mode %#o): its words would stand in network-status", path, st.Mode().Perm())
	}
	data, err := io.ReadAll(io.LimitReader(f, maxResolvConf+1))
	if err != nil {
		return types.DNS{}, err
	}
	if len(data) > maxResolvConf {
		return types.DNS{}, fmt.Errorf("%s has more than %d bytes", path, maxResolvConf)
	}
	var dns types.DNS
	for line := range strings.Lines(string(data)) {
		words := strings.Fields(line)
		if len(words) < 2 {
			continue
		}
		switch directive, values := words[0], words[1:]; directive {
		case "nameserver":
			dns.Nameservers = append(dns.Nameservers, valid(values[:1], isResolver)...)
		case "domain":
			dns.Domain = cmp.Or(strings.Join(valid(values[:1], isDNSName), ""), dns.Domain)
		case "search":
			dns.Search = append(dns.Search, valid(values, isDNSName)...)
		case "options":
			dns.Options = append(dns.Options, valid(values, isResolverOption)...)
		}
	}
	return dns, nil
}

func valid(values []string, good func(string) bool) []string {
	return slices.DeleteFunc(values, func(v string) bool { return !good(v) })
}

package conf

import (
	"bytes"
	"fmt"
	"net"
)

// UnicastMAC reads the Ethernet address of one interface: 6 bytes, no multicast address, not
// all zero (IEEE 802-2014, section 8).
func UnicastMAC(text string) (net.HardwareAddr, error) {
	hw, err := net.ParseMAC(text)
	if err != nil || len(hw) != 6 || hw[0]&1 != 0 || bytes.Equal(hw, make([]byte, 6)) {
		return nil, fmt.Errorf("%.40q, want 6 bytes like 02:00:00:00:00:01, no multicast address, not all zero", text)
	}
	return hw, nil
}

// Package conf plans the attachments of a pod. It parses the plexus configuration, the
// pod's annotations and NetworkAttachmentDefinitions, and resolves them to a
// Plan: the attachments of one pod, in order, with their interface names.
//
// The package is pure: it reads no file, opens no socket, looks at no clock.
// Its input is untrusted bytes, annotations may be an attacker's; everything it returns is
// typed and checked. An error names the
// object, the key and the allowed values.
//
// Formats: CNI specification 1.1.0 section 1 (configuration), NPWG
// multi-network specification 1.3 sections 3 and 4 (NADs and annotations),
// and the configuration of Multus 4, whose keys keep their meaning here.
package conf

# plexus: `make demo` shows it, `make test` proves it; both install what they need.

export CGO_ENABLED ?= 0
GO      ?= go
LDFLAGS ?= -s -w
# Without its traces grpc needs no templates, for which the linker keeps every method:
# a fifth of plexusd.
TAGS    ?= grpcnotrace
LINKS   := sriov vppmemif ovsdpdk userspace
OVS     := openvswitch-switch-dpdk dpdk-dev librte-net-memif23 iproute2 iputils-ping iptables strace
FUZZTIME ?= 60s
# The suites that need OVS-DPDK, longest first: they run beside each other, each in a node of its own.
SUITES  := peers agent core stopped plugins faults hostile journal hung migrate ovs ovsuser

.PHONY: build plugins demo test unit deploy e2e-ovs e2e-vpp e2e-sriov e2e-kube bench faults hostile fuzz lint packages clean

build: ## static executables in bin/
	@mkdir -p bin
	$(GO) build -trimpath -tags '$(TAGS)' -ldflags '$(LDFLAGS)' -o bin/ ./cmd/...
	@for name in $(LINKS); do ln -f bin/plexusbuiltin bin/$$name; done
	@ln -f bin/plexusctl bin/kubectl-plexus

plugins: ## the reference plugins that the demo and the tests run beside plexus
	@mkdir -p bin
	$(GO) build -trimpath -ldflags '$(LDFLAGS)' -o bin/ $$($(GO) list -f '{{.ImportPath}}' tool | grep containernetworking/)

packages:
	@rig/packages.sh $(OVS)

demo: packages build plugins ## the main job, end to end, without a cluster
	@$(GO) build -o bin/ ./e2e/demo
	@bin/demo -bin bin -examples examples

test: lint unit deploy e2e-ovs e2e-vpp e2e-sriov e2e-kube demo ## everything
	@$(MAKE) fuzz FUZZTIME=5000x

unit: packages build plugins ## tests of single packages, with the race detector
	@rig/packages.sh gcc libc6-dev
	CGO_ENABLED=1 $(GO) test -race -p 3 -timeout 20m $$($(GO) list ./... | grep -vE '/(e2e|rig)(/|$$)')

deploy: ## the Helm chart and the kustomization are one deployment, and what its README says
	cd deploy/render && $(GO) vet . && $(GO) test .

e2e-ovs: packages build plugins ## whole executables against a real OVS-DPDK
	@rig/packages.sh gcc libc6-dev
	$(GO) test -count=1 -p 2 -timeout 30m $(SUITES:%=./e2e/%) ./rig/node ./rig/ovs ./rig/process
	CGO_ENABLED=1 $(GO) test -race -count=1 ./e2e/storm

e2e-vpp: packages build plugins ## memif, on the VPP that PLEXUS_VPP_API names, else the installed one, else the stand-in
	@if [ -n "$$PLEXUS_VPP_API" ]; then echo "memif: against the VPP at $$PLEXUS_VPP_API"; \
	elif command -v vpp >/dev/null; then echo "memif: against $$(command -v vpp)"; \
	else echo "memif: PLEXUS_VPP_API names no VPP and none is installed: against the stand-in (rig/standin)"; fi
	$(GO) test -count=1 -timeout 30m ./e2e/vpp
	$(GO) test -count=1 ./rig/memif ./rig/standin

e2e-sriov: build plugins ## virtual functions of an emulated SR-IOV NIC, in a virtual machine
	@rig/guest/packages.sh
	$(GO) build -trimpath -ldflags '$(LDFLAGS)' -o bin/ ./rig/guest
	$(GO) test -c -o bin/sriov.test ./e2e/sriov
	$(GO) test -c -o bin/plugins.test ./e2e/plugins
	bin/guest -bin bin -pfs 2 -vfs 7 bin/sriov.test -test.count=1 -test.timeout 25m
	bin/guest -bin bin bin/plugins.test -test.count=1 -test.run OfModules -crowd 3

e2e-kube: packages build plugins ## plexus on a real Kubernetes node, compiled once, which takes minutes
	@rig/packages.sh iproute2 iptables
	@$(GO) run ./rig/kube/prepare
	$(GO) build -trimpath -ldflags '$(LDFLAGS)' -o bin/standin ./rig/standin/serve
	$(GO) test -count=1 -p 1 -timeout 20m ./rig/kube ./e2e/cluster

# SRIOV_CNI is a static executable of sriov-cni, to compare plexus with.
bench: packages build plugins ## medians and ratios of one run
	@$(GO) build -trimpath -ldflags '$(LDFLAGS)' -o bin/ ./e2e/bench ./e2e/bench/empty
	@$(GO) build -trimpath -ldflags '$(LDFLAGS)' -o bin/standin ./rig/standin/serve
	@bin/bench -bin bin
	@$(GO) test -run '^$$' -bench Compare -benchtime 3x ./vppmemif
	@$(GO) run ./rig/kube/prepare
	@$(GO) test -count=1 -timeout 20m -run '^$$' -bench . -benchtime 1x ./e2e/cluster
	@rig/guest/packages.sh
	@$(GO) build -trimpath -ldflags '$(LDFLAGS)' -o bin/ ./rig/guest
	@$(GO) test -c -o bin/sriov.test ./e2e/sriov
	@bin/guest -bin bin -pfs 2 -vfs 7 $(SRIOV_CNI:%=-with %:/guest/sriov-cni) bin/sriov.test $(SRIOV_CNI:%=-peer /guest/sriov-cni) -test.run '^$$' -test.bench . -test.benchtime 25x

faults: packages build plugins ## each call of the kernel that ADD and DEL make fails, or is the last, in turn; power cuts at each write
	PLEXUS_FAULTS=all $(GO) test -count=1 -v -timeout 3h -run 'TestSyscallFaults' ./e2e/faults
	PLEXUS_FAULTS=all $(GO) test -count=1 -v -run 'PowerCut' ./engine

hostile: packages build plugins ## a tenant's values for each key, links that are swapped for 60 s, servers that lie
	PLEXUS_HOSTILE=all $(GO) test -count=1 -v -timeout 1h ./e2e/hostile
	PLEXUS_HOSTILE=all $(GO) test -count=1 -v -run 'Swapped|Licence' ./shareddir ./ovsdpdk ./vppmemif

fuzz: ## each fuzz target for FUZZTIME
	@for p in $$($(GO) list ./... ); do \
		for f in $$($(GO) test -list '^Fuzz' $$p | grep '^Fuzz'); do \
			echo "$$p $$f"; $(GO) test -run '^$$' -fuzz "^$$f$$" -fuzztime $(FUZZTIME) $$p || exit 1; \
		done; \
	done

lint: ## vet, staticcheck, gofmt; the import rules are a test (cmd/plexus)
	@out=$$(gofmt -l .); if [ -n "$$out" ]; then echo "not formatted by gofmt:"; echo "$$out"; exit 1; fi
	$(GO) vet ./...
	$(GO) tool staticcheck ./...

clean:
	rm -rf bin

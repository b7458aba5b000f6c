#!/bin/sh
# A CNI plugin for the engine's tests. Links to it give it its name; it works in the folder
# of the link. It writes each verb to "log", with the sockets of prevResult: "+NAME" exists,
# "-NAME" does not. What ADD makes is a file in "made", which DEL removes. A file
# "fail-VERB-NAME" has the verb fail. It answers with prevResult, or with an address.
name=${0##*/}
cd "${0%/*}" || exit 1
read -r in
saw= rest=$in
while :; do
	case $rest in *'"socketPath":"'*) ;; *) break ;; esac
	rest=${rest#*\"socketPath\":\"}
	file=${rest%%\"*}
	if [ -e "$file" ]; then saw="$saw +${file##*/}"; else saw="$saw -${file##*/}"; fi
done
echo "$CNI_COMMAND $name $CNI_CONTAINERID $CNI_IFNAME$saw" >>log
made=made/$name,$CNI_CONTAINERID,$CNI_IFNAME
if [ "$CNI_COMMAND" = ADD ]; then : >"$made"; fi
if [ -e "fail-$CNI_COMMAND-$name" ]; then
	echo '{"cniVersion": "1.1.0", "code": 100, "msg": "'"$name"' was told to fail"}'
	exit 1
fi
case $CNI_COMMAND in
ADD)
	case $in in
	*'"prevResult":'*)
		in=${in#*\"prevResult\":}
		echo "${in%,\"type\":*}"
		;;
	*) echo '{"cniVersion": "1.1.0", "interfaces": [{"name": "'"$CNI_IFNAME"'"}], "ips": [{"address": "192.0.2.7/24", "gateway": "192.0.2.1"}]}' ;;
	esac
	;;
DEL) [ ! -e "$made" ] || rm "$made" ;;
GC) echo "$in" >"gc-$name" ;;
esac

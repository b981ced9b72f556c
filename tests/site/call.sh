# Calls the service in $TARGET with the mounted tokens, as any program without a library for it would.
call() {
    wget -q -S -O body "$@" "$TARGET" 2>head
    sed -n 's/^ *\(wget: server returned error: \)\?HTTP\/1.1 \([0-9]*\).*/\2/p' head | tail -n 1
}
cd /tmp || cd "$(mktemp -d)" || exit 1
echo "with the token: $(call --header "Authorization: Bearer $(cat "$IDTOKEN_FILE_ORDERS")") $(cat body)"
echo "without: $(call)"
echo "with another audience's token: $(call --header "Authorization: Bearer $(cat "$IDTOKEN_FILE_OTHER")")"
echo done

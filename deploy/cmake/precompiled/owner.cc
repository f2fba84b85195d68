// A target of its own for each precompiled header; nothing runs it.
int main() { return 0; }

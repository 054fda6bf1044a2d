/** (to come) */
/** How `hashOn` is written: names are tokens (RFC 9110 §5.6.2, RFC 6265 §4.1.1). */
export const hashOnPattern = /^(?:address|(?:header|cookie):[!#$%&'*+.^_`|~0-9A-Za-z-]+)$/
